#!/bin/sh
# All benchmarks. Usage: run.sh PYTHON [--quick]; DEVICE=cuda for a card.
# --quick takes the small shape T only; without it the large shape S follows, each side once or twice.
set -e
PY=$1
cd "$(dirname "$0")"
DEVICE=${DEVICE:-cpu}
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
# Rows in bfloat16 only where the hardware has it: elsewhere it is emulated, a hundred times slower.
if [ "$DEVICE" != cpu ] || grep -qE 'amx_bf16|avx512_bf16' /proc/cpuinfo 2>/dev/null; then BF16=--bf16; else BF16=; fi
START=$(date +%s)
run() {
    echo; echo "[$(( $(date +%s) - START )) s] $*"
    "$PY" "$@" --device "$DEVICE"
}
run floor.py --shape T --repeats 3 --trees 2
run collection.py --shape T --trees 32 --repeats 3 $BF16
run collection.py --shape T --trees 8 --repeats 1 --real-lengths
run update.py --shape T --trees 4 --batch 7 --repeats 2 --shuffled $BF16
run update.py --shape T --trees 1 --batch 15 --horizon 4 --repeats 2
run iteration.py --shape T --trees 4 --repeats 2
run scaling.py --shape T --repeats 1
run memory.py --shape T
run scoring.py --repeats 1
run compiled.py --shape T --repeats 8
run profiles.py --shape T
if [ "$2" != --quick ]; then
    run floor.py --shape S --repeats 2 --rows 64 --trees 2
    run profiles.py --shape S --rows 64 --trees 1
    run collection.py --shape S --trees 8 --level-trees 4 --repeats 1
    run collection.py --shape SmolLM2 --trees 4 --level-trees 2 --repeats 1
    run update.py --shape S --trees 1 --batch 7 --repeats 1 $BF16
    # TRL's batch of a whole tree of 15 pairs would not fit in 16 GB here.
    run update.py --shape S --trees 1 --batch 8 --horizon 4 --repeats 1 --sides packed "packed, reference from collection" \
        "TRL, reference in the step"
    run memory.py --shape S --trees 1
fi
echo; echo "done in $(( $(date +%s) - START )) s"
