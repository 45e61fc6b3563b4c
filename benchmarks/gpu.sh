#!/usr/bin/env bash
# Everything that only a GPU can show, in under 8 minutes: benchmarks/gpu.sh [PART ...]
#
# Parts: versions tests check step read sweep (default: all). Results go to $OUT (default: gpu_results) as JSON and logs;
# `python -m benchmarks.gpu.page $OUT > docs/gpu.md` makes the page. PYTHON names the interpreter (default: python3).
# A part that fails or takes too long does not stop the others; the exit status is the number of parts that failed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3} out=${OUT:-gpu_results} quick=${QUICK:+--quick}
mkdir -p "$out"
export KINETO_LOG_LEVEL=99 PYTHONUNBUFFERED=1 PYTHONPATH=${PYTHONPATH:-.} GPU_RESULTS=$out
failed=0

# part NAME SECONDS COMMAND...: stdout to NAME.json or NAME.txt, stderr to NAME.log
part() {
    local name=$1 most_s=$2 file=$1.json begun=$SECONDS
    shift 2
    [[ $name == versions || $name == tests ]] && file=$name.txt
    timeout -k 10 "$most_s" "$@" >"$out/$file" 2>"$out/$name.log"
    local status=$?
    echo "$name: exit $status after $((SECONDS - begun)) s"
    if ((status)); then
        failed=$((failed + 1))
        tail -n 15 "$out/$file" "$out/$name.log"
    fi
}

versions() {
    nvidia-smi || echo "no nvidia-smi"
    date -u +%Y-%m-%d
    nproc
    "$python" -c 'import sys, torch; print(sys.version, torch.__version__, torch.version.cuda, sep="\n")'
}

for wanted in "${@:-versions tests step read check sweep}"; do
    for name in $wanted; do
        case $name in
            versions) part versions 60 bash -c "$(declare -f versions); python=$python; versions" ;;
            # Files side by side: most of their time goes into starting processes. -v, so that a run cut off says how far.
            tests) part tests 180 "$python" -m pytest -m gpu -v -W default -p no:cacheprovider --durations=15 \
                -n 4 tests/gpu ;;
            step) part step 150 "$python" -m benchmarks.gpu.step --json $quick ;;
            read) part read 60 "$python" -m benchmarks.gpu.read --json ;;
            check) part check 120 "$python" -m benchmarks.gpu_check --json ;;
            sweep) part sweep 200 "$python" -m benchmarks.gpu.sweep --json $quick ;;
            *) echo "$name is no part: versions tests step read check sweep" >&2; exit 2 ;;
        esac
    done
done
exit "$failed"
