from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replica.schedule import Job, JobEvent, JobState, seconds_to_next


def test_a_job_is_due_an_interval_after_it_succeeded():
    job = Job("a.b", 60).after(JobEvent.STARTED, 0)
    assert not job.is_due(10**9)
    job = job.after(JobEvent.SUCCEEDED, 100, 0.5)
    assert (job.state, job.due_at, job.is_due(159), job.is_due(160)) == (JobState.WAITING, 160, False, True)


def test_failures_wait_longer_and_longer_and_a_success_forgets_them():
    job, waits = Job("a.b", 60), []
    for _ in range(9):
        job = job.after(JobEvent.STARTED, 0).after(JobEvent.FAILED, 0, 0.5)
        waits.append(job.due_at)
    assert waits == [60, 120, 240, 480, 960, 1800, 1800, 1800, 1800]
    assert job.state is JobState.FAILING
    assert job.after(JobEvent.STARTED, 0).after(JobEvent.SUCCEEDED, 0, 0.5).failures == 0


@pytest.mark.parametrize("what", [JobEvent.SUCCEEDED, JobEvent.FAILED])
def test_what_did_not_start_cannot_end(what):
    with pytest.raises(ValueError, match="cannot"):
        Job("a.b", 60).after(what, 0)
    with pytest.raises(ValueError, match="cannot"):
        Job("a.b", 60).after(JobEvent.STARTED, 0).after(JobEvent.STARTED, 0)


@given(st.floats(0, 1), st.integers(1, 10**6))
def test_chance_moves_the_next_run_by_a_tenth_at_most(chance, interval):
    due = Job("a.b", interval).after(JobEvent.STARTED, 0).after(JobEvent.SUCCEEDED, 0, chance).due_at
    assert 0.899 * interval <= due <= 1.101 * interval


def test_the_wait_is_until_the_first_that_is_due():
    jobs = [Job("a.b", 60, due_at=50), Job("c.d", 60, due_at=30), Job("e.f", 60, JobState.RUNNING)]
    assert seconds_to_next(jobs, 10) == 20
    assert seconds_to_next(jobs, 1000) == 0
    assert seconds_to_next(jobs[2:], 0) is None
