#!/bin/bash
#$ -S /bin/bash
#$ -N retrieva-merge-ja_cc
#$ -o /data/out/.ja_cc.jobs/logs/003-merge-$JOB_ID.log
#$ -j y
#$ -r y
#$ -l h_rt=12:00:00
#$ -l node_q=1
set -eo pipefail
cd /work
export CUDA_DEVICE_MAX_CONNECTIONS=1
source /shared/venv/bin/activate
echo "merge on $(hostname), job $JOB_ID, restarted ${RESTARTED:-0}"
exec python -m retrieva_pretrain data merge /data/out/.ja_cc.jobs/003-corpus.yaml --output /data/out
