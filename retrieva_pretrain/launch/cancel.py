"""`retrieva cancel`: no job of a run goes on."""

from __future__ import annotations

from retrieva_pretrain.launch.attempts import Cancelled
from retrieva_pretrain.launch.records import append_record, now, read_records
from retrieva_pretrain.launch.run_files import RunFiles
from retrieva_pretrain.launch.schedulers import scheduler_named
from retrieva_pretrain.launch.train import active_jobs


def cancel_run(run: RunFiles, *, at_once: bool = False) -> list[str]:
    """End the jobs of a run and return their ids; those that train save first, unless `at_once`.

    Raises:
        LaunchError: the scheduler refuses, or cannot be reached.
    """
    active = active_jobs(run)
    if not active:
        return []
    # Written first: a job that leaves must not put itself back into the queue.
    newest = max(record.submission for record in read_records(run.records))
    append_record(run.attempts, Cancelled(time=now(), submission=newest))
    for name in dict.fromkeys(record.scheduler for record in active):
        scheduler, jobs = scheduler_named(name), [r.job_id for r in active if r.scheduler == name]
        if at_once:
            scheduler.cancel(jobs)
        else:
            scheduler.ask_to_leave(jobs)
    return [record.job_id for record in active]
