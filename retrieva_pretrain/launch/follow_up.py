"""The job that goes on after this one, where a site allows no requeue."""

from __future__ import annotations

from retrieva_pretrain.errors import LaunchError
from retrieva_pretrain.launch.records import JobRecord, append_record, now, read_records
from retrieva_pretrain.launch.saying import say
from retrieva_pretrain.launch.schedulers import scheduler_named
from retrieva_pretrain.launch.spec import JobSpec


class FollowUp:
    """Submits the job after this one, and takes it out of the queue where nothing is left to do."""

    def __init__(self, spec: JobSpec, job_id: str) -> None:
        self.spec = spec
        self.job_id = job_id
        """Of this job."""

        self.submitted: str | None = None
        """The id of the job that waits for the end of this one."""

    def prepare(self) -> None:
        """See to it that a job waits for the end of this one, where the site allows no requeue."""
        if self.spec.profile.training.goes_on != "follow_up" or self.spec.profile.scheduler == "local":
            return
        waiting = [r.job_id for r in read_records(self.spec.files.records) if self.job_id in r.after]
        if waiting:
            self.submitted = waiting[-1]
        else:
            self.submit()

    def submit(self) -> None:
        """Submit the same script once more, to start when this job has ended."""
        profile = self.spec.profile
        scheduler = scheduler_named(profile.scheduler, profile.group)
        command = scheduler.command(self.spec.script, after_end=[self.job_id])
        try:
            self.submitted = scheduler.submit(command)
        except LaunchError as error:
            say(
                f"no job can be submitted from inside a job here; when this one has ended: retrieva launch ({error})"
            )
            return
        record = JobRecord(
            time=now(),
            submission=self.spec.submission,
            kind="train",
            scheduler=profile.scheduler,
            job_id=self.submitted,
            after=[self.job_id],
            nodes=self.spec.nodes,
            script=self.spec.script.name,
            command=command,
        )
        append_record(self.spec.files.records, record)
        say(f"job {self.submitted} follows this one")

    def cancel(self) -> None:
        """Take the jobs that would come after this one out of the queue; those that stay find nothing to do."""
        if self.submitted is None:
            return
        try:
            records = [
                r for r in read_records(self.spec.files.records) if r.submission == self.spec.submission
            ]
            jobs = [record.job_id for record in records]
            # A full disk may have left it without a record.
            later = jobs[jobs.index(self.submitted) :] if self.submitted in jobs else [self.submitted]
            scheduler_named(self.spec.profile.scheduler).cancel(later)
        except LaunchError as error:
            say(f"job {self.submitted} will find nothing to do; it cannot be cancelled from here: {error}")
        self.submitted = None
