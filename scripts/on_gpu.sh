#!/usr/bin/env bash
# One card, at most ten minutes: the GPU tests, the benchmarks, 200 profiled steps of gao_118m, size=gpu with its circuits.
#   scripts/on_gpu.sh                     small JSON results into docs/results/gpu
#   scripts/on_gpu.sh --smoke <folder>    the same path on the CPU at smoke size: does everything run?
# Every part has a limit of its own, and what one part found stays when another fails; exit code 1 if any did.
set -uo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || command -v python3)}
OUT=docs/results/gpu DEVICE=cuda BENCH=(--runs 7) SMOKE=()
case "${1:-}" in
  --smoke) OUT=${2:?--smoke needs a folder for its results} DEVICE=cpu BENCH=(--small --runs 1) SMOKE=(+debug=smoke) ;;
  "") ;;
  *) echo "error: $1: unknown; nothing, or --smoke <folder>" >&2; exit 2 ;;
esac
if [ "$DEVICE" = cuda ] && ! "$PYTHON" -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then
  echo "error: torch sees no CUDA device here; scripts/on_gpu.sh --smoke <folder> rehearses on the CPU" >&2
  exit 1
fi
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
RUN=$(mktemp -d)
trap 'rm -rf "$RUN"' EXIT
PARTS=()
FAILED=0

# part <name> <limit in seconds> <command...>: its output into the terminal and <name>.log, its time and exit code into parts.json
part() {
  local name=$1 limit=$2 started=$SECONDS code
  shift 2
  echo "== $name (at most $limit s)"
  timeout --kill-after=10 "$limit" "$@" 2>&1 | tee "$RUN/$name.log"
  code=${PIPESTATUS[0]}
  PARTS+=("{\"part\": \"$name\", \"seconds\": $((SECONDS - started)), \"limit\": $limit, \"exit_code\": $code}")
  if [ "$code" != 0 ]; then
    FAILED=1
    echo "== $name failed with exit code $code" >&2
  fi
  return "$code"
}

part doctor 15 "$PYTHON" scripts/doctor.py
part tests 80 "$PYTHON" -m pytest -q -m gpu tests/gpu
grep -E "^[0-9]+ (passed|failed|skipped)|^=.*(passed|failed|skipped)" "$RUN/tests.log" | tail -n 1 >"$OUT/tests.txt"
for bench in topk projection attention step sparse_step; do
  part "bench_$bench" "$([ $bench = sparse_step ] && echo 60 || echo 30)" "$PYTHON" "scripts/bench_$bench.py" --device "$DEVICE" "${BENCH[@]}" &&
    tail -n 1 "$RUN/bench_$bench.log" >"$OUT/bench_$bench.json"
done

COMMON=("trainer.device=$DEVICE" logger=none trainer.progress=false "${SMOKE[@]}")
STEPS=(trainer.n_steps=200 callbacks.profile_steps=50)
[ "$DEVICE" = cpu ] && STEPS=(trainer.n_steps=26 callbacks.profile_steps=4)
part gao_118m 120 "$PYTHON" train.py +experiment=gao_118m "${COMMON[@]}" circuits=none ood=none "${STEPS[@]}" "hydra.run.dir=$RUN/gao_118m" &&
  cp "$RUN/gao_118m/profile.json" "$OUT/gao_118m_profile.json" &&
  part gao_118m_numbers 20 "$PYTHON" scripts/report.py "run=$RUN/gao_118m" "brief=$OUT/gao_118m.json"
part size_gpu 165 "$PYTHON" train.py +experiment=quickstart size=gpu "${COMMON[@]}" "hydra.run.dir=$RUN/size_gpu"
[ -f "$RUN/size_gpu/report.json" ] &&
  part size_gpu_numbers 20 "$PYTHON" scripts/report.py "run=$RUN/size_gpu" "brief=$OUT/size_gpu.json"

commit=$(git rev-parse HEAD 2>/dev/null || echo unknown)
device=$("$PYTHON" -c "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else 'cpu', 'torch', torch.__version__)")
(IFS=,; printf '{"commit": "%s", "device": "%s", "seconds": %d, "parts": [%s]}\n' "$commit" "$device" "$SECONDS" "${PARTS[*]}") >"$OUT/parts.json"
echo "results: $OUT ($SECONDS s)"
exit "$FAILED"
