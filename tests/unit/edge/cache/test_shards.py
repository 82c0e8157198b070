"""Which worker has which response."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.cache.shards import SHARDS, WHOLE, Share, file_name, shard_of
from edge.http.variants import variant_key

COUNTS = st.integers(1, 64)


@given(st.text(), COUNTS)
def test_each_key_has_one_owner_and_lies_in_a_shard_of_its_owner(key, count):
    workers = [Share(index, count) for index in range(count)]
    owners = [worker for worker in workers if worker.owns(key)]
    assert [owner.index for owner in owners] == [workers[0].owner_of(key)]
    assert shard_of(file_name(key)) in owners[0].shards


@given(COUNTS)
def test_every_shard_is_one_workers_and_each_goes_round_its_own(count):
    assert sorted(shard for index in range(count) for shard in Share(index, count).shards) == list(range(SHARDS))
    for index in range(count):
        share, shard, seen = Share(index, count), index, []
        while shard not in seen:
            seen.append(shard)
            shard = share.shard_after(shard)
        assert seen == list(share.shards)


@given(st.text(alphabet=st.characters(exclude_characters=" ", codec="utf-8")), st.text(), COUNTS)
def test_all_variants_of_a_url_have_its_owner(key, language, count):
    variant = variant_key(key, (("accept-language", language),))
    assert Share(0, count).owner_of(variant) == Share(0, count).owner_of(key)
    assert file_name(variant) != file_name(key)


@given(st.sampled_from(["/cvmfs/sw.example.org", "http://a/cvmfs/b", ""]), COUNTS)
def test_the_documents_of_a_repository_have_one_owner(base, count):
    documents = [f"{base}/{name}" for name in (".cvmfspublished", ".cvmfswhitelist", ".cvmfswhitelist.pkcs7")]
    assert len({Share(0, count).owner_of(each) for each in documents}) == 1
    assert len({file_name(each) for each in documents}) == 3


def test_a_lone_worker_has_everything():
    assert WHOLE.owns("anything")
    assert list(WHOLE.shards) == list(range(SHARDS))


@pytest.mark.parametrize(("number", "part"), [(0, 0), (1, 1), (3, 1), (9, 3)])
def test_a_limit_is_shared_out_without_vanishing(number, part):
    assert Share(0, 3).of(number) == part
