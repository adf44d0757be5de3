#!/bin/bash
{# `retrieva launch --cluster local`: the same as slurm/train_job.sbatch, without a scheduler. #}
set -eo pipefail
cd {{ working_directory | sh }}
{% for line in environment %}
{{ line | as_written }}
{% endfor %}
exec {{ supervisor | words }} -- \
  {{ node | words }}
