#!/bin/bash
#$ -S /bin/bash
#$ -N retrieva-small
#$ -o /work/runs/small/logs/003-train-$JOB_ID.log
#$ -j y
#$ -r n
#$ -notify
#$ -l h_rt=24:00:00
#$ -l node_f=2
#$ -pe mpi 2
#$ -M me@example.org
#$ -m ea
#$ -p -4
set -eo pipefail
cd /work
type module >/dev/null 2>&1 || source /etc/profile || true
module load cuda/12.4
export CUDA_DEVICE_MAX_CONNECTIONS=1
source '/shared/it'"'"'s my venv/bin/activate'
if [ "${1:-}" = node ]; then
  shift
  exec python /work/runs/small/jobs/003-code/retrieva.py node /work/runs/small/jobs/003-job.json "$@"
fi
echo retrieva-small": job $JOB_ID, restarted ${RESTARTED:-0}, on $(hostname)"
exec python /work/runs/small/jobs/003-code/retrieva.py job /work/runs/small/jobs/003-job.json -- \
  python /work/runs/small/jobs/003-code/retrieva.py node /work/runs/small/jobs/003-job.json
