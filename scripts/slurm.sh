#!/bin/bash
# One training, chain or study as a job that goes on by itself until it is done:
#
#     sbatch --gpus-per-node=8 --ntasks-per-node=8 --time=24:00:00 scripts/slurm.sh options/x.yml [KEY:SUB=VALUE ...]
#
# Before the time limit, and when it is preempted, the run saves and ends with code 75; then the job puts itself back
# into the queue under its own number. Any other code ends the job: 0 it is done, 2 there is something to mend.
#SBATCH --job-name=tgsr
#SBATCH --output=%x.%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=USR1@120
set -u
trap '' TERM USR1 # of this shell: what is asked to stop is the run
options=${1:?name an option file}
shift
(($#)) && set -- --force_yml "$@"
echo "$(date): start ${SLURM_RESTART_COUNT:-0} of job $SLURM_JOB_ID"
# The run itself must hear the signals that this shell ignores, and an ignored signal is inherited.
srun --kill-on-bad-exit=0 env --default-signal=TERM,USR1 \
    "${PYTHON:-python}" train.py -opt "$options" --launcher slurm --auto_resume "$@"
code=$?
echo "$(date): ended with $code"
if ((code == 75)); then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
