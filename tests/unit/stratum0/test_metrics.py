"""Numbers to be alarmed by."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from stratum0.metrics import gauges, metrics_of, remove_metrics, text_of, write_metrics
from tests.fakes.publishers import NAME, new_publisher


def values_in(text):
    return {
        (family.name, sample.labels["repository"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_expiries_and_the_revision_are_told(tmp_path):
    repository = new_publisher(tmp_path)
    values = values_in(text_of(gauges(repository)))
    assert values["stratum0_whitelist_expires_timestamp_seconds", NAME] == repository.whitelist().expires_at
    certificate = repository.keys.certificate()
    assert values["stratum0_certificate_expires_timestamp_seconds", NAME] == certificate.not_valid_after
    assert values["stratum0_revision", NAME] == 1
    assert values["stratum0_readable", NAME] == 1


def test_a_repository_that_cannot_be_read_is_told_as_such(tmp_path):
    repository = new_publisher(tmp_path)
    (repository.settings.storage / ".cvmfspublished").write_bytes(b"junk")
    values = values_in(metrics_of(repository.home))
    assert values["stratum0_readable", NAME] == 0
    assert ("stratum0_revision", NAME) not in values


def test_the_file_for_the_collector_is_written_and_removed(tmp_path):
    repository = new_publisher(tmp_path)
    write_metrics(repository)
    file = repository.home.metrics / f"{NAME}.prom"
    assert values_in(file.read_text()) == values_in(metrics_of(repository.home))
    remove_metrics(repository.home, NAME)
    remove_metrics(repository.home, NAME)
    assert not file.exists()


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path):
    repository = new_publisher(tmp_path)
    repository.home.metrics.write_text("in the way")
    write_metrics(repository)
    assert repository.home.metrics.read_text() == "in the way"
