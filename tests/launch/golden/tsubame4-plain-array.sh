#!/bin/bash
#$ -S /bin/bash
#$ -N retrieva-array-ja_cc
#$ -t 1-12
#$ -o /data/out/.ja_cc.jobs/logs/003-array-$JOB_ID.$TASK_ID.log
#$ -j y
#$ -r y
#$ -l h_rt=12:00:00
#$ -l node_q=1
set -eo pipefail
cd /work
export CUDA_DEVICE_MAX_CONNECTIONS=1
source /shared/venv/bin/activate
# Outside an array Grid Engine sets the word "undefined".
share="${SGE_TASK_ID:-undefined}"
[ "$share" != undefined ] || { echo "this script is for an array: qsub -t 1-12" >&2; exit 1; }
echo "share $share of 12 on $(hostname), job $JOB_ID, restarted ${RESTARTED:-0}"
exec python -m retrieva_pretrain data build /data/out/.ja_cc.jobs/003-corpus.yaml --output /data/out --workers 48 --shard "$share/12"
