#!/bin/sh
# All benchmarks. Usage: run.sh PYTHON [--quick]; DEVICE=cuda for a card.
# On one CPU core --quick takes shape T only; without it the large shape S follows with few repeats.
set -e
PY=$1
cd "$(dirname "$0")"
DEVICE=${DEVICE:-cpu}
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
run() { "$PY" "$@" --device "$DEVICE"; }
run collection.py --shape T --trees 64 --bf16
run update.py --shape T --trees 4 --batch 7 --horizon 3 --shuffled --bf16
run update.py --shape T --trees 2 --batch 15 --horizon 4
run iteration.py --shape T
run scaling.py --shape T --repeats 1
run memory.py --shape T
run floor.py --shape T
[ "$2" = --quick ] && exit 0
run floor.py --shape S --repeats 2 --rows 64 --trees 2
run collection.py --shape S --trees 16 --level-trees 8 --single-trees 1 --repeats 1
run update.py --shape S --trees 1 --batch 7 --horizon 3 --repeats 1 --bf16
run update.py --shape S --trees 1 --batch 15 --horizon 4 --repeats 1
run memory.py --shape S --trees 1
