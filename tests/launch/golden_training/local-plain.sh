#!/bin/bash
set -eo pipefail
cd /work
source /shared/venv/bin/activate
exec python /work/runs/small/jobs/003-code/retrieva.py job /work/runs/small/jobs/003-job.json -- \
  python /work/runs/small/jobs/003-code/retrieva.py node /work/runs/small/jobs/003-job.json
