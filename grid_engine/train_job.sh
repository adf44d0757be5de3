#!/bin/bash
{# One job of `retrieva launch` under Grid Engine; slurm/train_job.sbatch is the same for Slurm. The supervisor on the
   first node runs this script once more on every other node, by the profile's training.remote_shell, with the word
   `node` as its first argument. #}
#$ -S /bin/bash
#$ -N {{ job_name | directive }}
#$ -o {{ log | directive }}
#$ -j y
#$ -r {{ requeue | directive }}
#$ -notify
#$ -l h_rt={{ profile.walltime | directive }}
{% if profile.resource_type %}
#$ -l {{ profile.resource_type | directive }}={{ nodes | directive }}
{% endif %}
{% if profile.training.parallel_environment %}
#$ -pe {{ profile.training.parallel_environment | directive }} {{ nodes | directive }}
{% endif %}
{% if profile.mail %}
#$ -M {{ profile.mail.address | directive }}
#$ -m {{ profile.mail.on | map("first") | join | replace("f", "a") | directive }}
{% endif %}
{% for line in profile.extra_directives %}
#$ {{ line | as_written }}
{% endfor %}
set -eo pipefail
cd {{ working_directory | sh }}
{% for line in environment %}
{{ line | as_written }}
{% endfor %}
if [ "${1:-}" = node ]; then
  shift
  exec {{ node | words }} "$@"
fi
echo {{ job_name | sh }}": job $JOB_ID, restarted ${RESTARTED:-0}, on $(hostname)"
exec {{ supervisor | words }} -- \
  {{ node | words }}
