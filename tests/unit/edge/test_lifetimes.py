"""How long answers live."""

from edge.content import ContentKind
from edge.lifetimes import Lifetimes


def test_lifetimes_are_those_of_the_format():
    lifetimes = Lifetimes(negative_seconds_max=3, stale_if_error_seconds=1000)
    assert lifetimes.of(ContentKind.OBJECT, 200).is_immutable
    assert lifetimes.of(ContentKind.MANIFEST, 200).default_seconds == 61
    assert lifetimes.of(ContentKind.MANIFEST, 200).stale_if_error_seconds == 1000
    assert lifetimes.of(ContentKind.OBJECT, 404).seconds_max == 3
    assert not lifetimes.of(ContentKind.OBJECT, 404).is_immutable
    assert not lifetimes.of(ContentKind.OBJECT, 301).is_immutable
    assert lifetimes.of(ContentKind.OTHER, 200).default_seconds is None
