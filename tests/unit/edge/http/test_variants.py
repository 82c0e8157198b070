"""Lists of the variants that are stored for one URL."""

import pytest

from cdn.errors import DocumentError
from edge.http.headers import Headers
from edge.http.variants import VARIANTS_MAX, Variants, variant_key

DE, EN = (("accept-language", "de"),), (("accept-language", "en"),)


def request(**values: str) -> Headers:
    return Headers.of((name.replace("_", "-"), value) for name, value in values.items())


def test_a_variant_has_a_key_of_its_own_and_what_does_not_vary_that_of_its_url():
    assert variant_key("/x", ()) == "/x"
    assert (
        len({variant_key("/x", DE), variant_key("/x", EN), variant_key("/x", (("accept-language", None),)), "/x"}) == 4
    )


def test_a_request_gets_the_newest_variant_that_fits_it():
    known = Variants().with_newest(DE).with_newest(EN).with_newest((("x", None),))
    assert known.selected(request(Accept_Language="de", X="1")) == DE
    assert known.selected(request(Accept_Language="de")) == (("x", None),)
    assert known.selected(request(Accept_Language="fr", X="1")) == (("x", None),)
    assert Variants().selected(request()) == ()


def test_what_a_new_answer_will_be_selected_by_is_guessed_from_the_newest():
    assert Variants((DE,)).wanted(request(Accept_Language="fr")) == (("accept-language", "fr"),)
    assert Variants().wanted(request(Accept_Language="fr")) == ()


def test_the_oldest_variant_makes_room():
    known = Variants()
    for number in range(VARIANTS_MAX + 3):
        known = known.with_newest((("x", str(number)),))
    known = known.with_newest((("x", "5"),))
    assert len(known.known) == VARIANTS_MAX
    assert [each[0][1] for each in known.known[:2]] == ["5", str(VARIANTS_MAX + 2)]
    assert Variants.parse(known.to_bytes()) == known


@pytest.mark.parametrize("data", [b"", b"{", b"7", b"[7]", b"[[7]]", b'[["ab", 1]]' * 2, b"[" * 100_000])
def test_a_damaged_list_is_refused(data):
    with pytest.raises(DocumentError):
        Variants.parse(data)
