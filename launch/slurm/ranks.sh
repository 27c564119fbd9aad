# What train.sbatch and evaluate.sbatch share; they source it in the repository. One task of the job is one rank.
# shellcheck shell=bash

attempts_without_progress=3 # in a row, then the job is given up

refuse() {
  echo "error: $1" >&2
  exit 2
}

if [ -d .venv ]; then export PATH="${PWD}/.venv/bin:${PATH}"; fi

# In an array, %a in an argument is the number of this task, %6a the same with six digits, as in Slurm's own --output.
# The result is in `arguments`.
number_arguments() {
  local argument number
  arguments=()
  for argument in "$@"; do
    while [[ -n "${SLURM_ARRAY_TASK_ID:-}" && "${argument}" =~ ^(.*)%([0-9]?)a(.*)$ ]]; do
      printf -v number "%0${BASH_REMATCH[2]:-1}d" "${SLURM_ARRAY_TASK_ID}"
      argument="${BASH_REMATCH[1]}${number}${BASH_REMATCH[3]}"
    done
    arguments+=("${argument}")
  done
}

# The ranks find each other at the first node's address; its port follows from the job's number, so that jobs on one node differ.
set_rendezvous() {
  local first tasks
  tasks=${SLURM_TASKS_PER_NODE%%[(,]*}
  if [ -n "${SLURM_GPUS_ON_NODE:-}" ] && [ "${DS_ACCELERATOR:-cuda}" != cpu ] && [ "${tasks}" -ne "${SLURM_GPUS_ON_NODE}" ]; then
    refuse "${SLURM_GPUS_ON_NODE} GPU(s) and ${tasks} task(s) on a node: a rank has one GPU: give --ntasks-per-node=${SLURM_GPUS_ON_NODE}"
  fi
  first=$(scontrol show hostnames "${SLURM_JOB_NODELIST}" | head -n 1)
  MASTER_ADDR=$(scontrol show node "${first}" | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p')
  MASTER_PORT=$((15000 + SLURM_JOB_ID % 10000))
  OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
  export MASTER_ADDR MASTER_PORT OMP_NUM_THREADS
  echo "job ${SLURM_JOB_ID} on ${SLURM_JOB_NODELIST}, ${tasks} rank(s) a node, meeting at ${MASTER_ADDR}:${MASTER_PORT};" \
    "restarts: ${SLURM_RESTART_COUNT:-0}"
}

# A rank that fails ends the others (--kill-on-bad-exit); rank 0 may finish as late as it likes (--wait=0).
# --data.cache='$VARIABLE/folder' is filled in on each node, where the variable names that node's own disk.
start_ranks() {
  srun --label --kill-on-bad-exit=1 --wait=0 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" bash -c '
    export RANK="${SLURM_PROCID}" LOCAL_RANK="${SLURM_LOCALID}" WORLD_SIZE="${SLURM_NTASKS}"
    given=()
    for argument in "$@"; do
      if [[ "${argument}" =~ ^--data\.cache=\$\{?([A-Za-z_][A-Za-z_0-9]*)\}?(/.*)?$ ]]; then
        folder=${!BASH_REMATCH[1]:-}
        if [ -z "${folder}" ]; then
          echo "error: ${argument}: ${SLURMD_NODENAME} sets no ${BASH_REMATCH[1]}: name a variable of the node, or a folder" >&2
          exit 2
        fi
        argument="--data.cache=${folder}${BASH_REMATCH[2]}"
      fi
      given+=("${argument}")
    done
    exec python "${given[@]}"' rank "$@"
}

# requeue STATUS BEFORE NOW FOLDER: put the job back into the queue, unless that would lead nowhere; does not return.
# BEFORE and NOW say how far the work was when this attempt began and is now, empty for nothing; FOLDER remembers the attempts.
requeue() {
  local status=$1 before=$2 now=$3 tally="$4/attempts-${SLURM_JOB_ID}" idle=0 state
  local failure=$((status ? status : 1))
  state=$(squeue --noheader --jobs="${SLURM_JOB_ID}" --format=%T)
  if [ "${state}" != RUNNING ]; then
    echo "not requeued here: Slurm says ${state}" # it was cancelled, or Slurm puts it back by itself
    exit "${failure}"
  fi
  if [ -z "${now}" ]; then
    echo "error: failed with status ${status} before anything was kept: not restarted, see the first error above" >&2
    exit "${failure}"
  fi
  if [ "${now}" = "${before}" ]; then idle=$(($(cat "${tally}" 2>/dev/null || echo 0) + 1)); fi
  if [ "${idle}" -ge "${attempts_without_progress}" ]; then
    rm -f "${tally}"
    echo "error: ${idle} attempts in a row came no further than ${now}: given up, see the first error of the last one" >&2
    exit "${failure}"
  fi
  echo "${idle}" >"${tally}"
  echo "requeued at ${now} after status ${status}"
  scontrol requeue "${SLURM_JOB_ID}"
  exit 0
}
