#!/bin/bash
{# One job of `retrieva data build --cluster` under Grid Engine; slurm/data_job.sbatch is the same for Slurm and
   says how to change it. #}
#$ -S /bin/bash
#$ -N {{ job_name | directive }}
{% if array %}
#$ -t {{ array | directive }}
{% endif %}
#$ -o {{ log | directive }}
#$ -j y
#$ -r y
#$ -l h_rt={{ profile.data.walltime | directive }}
{% if profile.data.resource_type %}
#$ -l {{ profile.data.resource_type | directive }}=1
{% endif %}
{% if profile.data.parallel_environment %}
#$ -pe {{ profile.data.parallel_environment | directive }} {{ profile.data.cpus_per_task | directive }}
{% endif %}
{% if profile.mail %}
#$ -M {{ profile.mail.address | directive }}
#$ -m {{ profile.mail.on | map("first") | join | replace("f", "a") | directive }}
{% endif %}
{% for line in profile.data.extra_directives %}
#$ {{ line | as_written }}
{% endfor %}
set -eo pipefail
cd {{ working_directory | sh }}
{% for line in environment %}
{{ line | as_written }}
{% endfor %}
{% if array %}
# Outside an array Grid Engine sets the word "undefined".
share="${SGE_TASK_ID:-undefined}"
[ "$share" != undefined ] || { echo "this script is for an array: qsub -t {{ array | directive }}" >&2; exit 1; }
echo "share $share of {{ shards | directive }} on $(hostname), job $JOB_ID, restarted ${RESTARTED:-0}"
exec {{ command | words }} --shard "$share/{{ shards | directive }}"
{% else %}
echo "merge on $(hostname), job $JOB_ID, restarted ${RESTARTED:-0}"
exec {{ command | words }}
{% endif %}
