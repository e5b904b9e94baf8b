#!/bin/bash
# One part of the proof on a machine with a GPU, in less than LIMIT seconds (570), rendering
# included; what it prints last is JSON. The files to keep are in OUT.
#
#   on_gpu.sh videomamba [options]       until done, or a snapshot in OUT/snapshot
#   on_gpu.sh resume SNAPSHOT [options]  on the same machine that is /tmp/proof/snapshot
#   on_gpu.sh frames|vit [options]
#   on_gpu.sh ablations [options]        what has no log in benchmarks/results/proof
#   on_gpu.sh plan [options]             how long a step of each arm and all ablations take
set -euo pipefail
export PYTHONPATH=src:. PYTHONUNBUFFERED=1
: "${OUT:?a folder for what is to be kept}" "${CLIPS:=60000}" "${LIMIT:=570}" "${EXTRA:=}"
part=$1
shift

# Memory first: disks may be slower than 16 cores that render.
folder=/tmp/proof-clips
if [ "$(df --output=avail -k /dev/shm 2>/dev/null | tail -1)" -gt $((CLIPS * 500)) ]; then
    folder=/dev/shm/proof-clips
fi
# shellcheck disable=SC2086
python3 -m benchmarks.proof.clips --to "$folder" --clips "$CLIPS" $EXTRA

left=$((LIMIT - SECONDS))
train() {
    python3 -m benchmarks.proof.train --clips "$folder" --to "$OUT" --stop-after "$left" "$@"
    # OUT may be emptied before the next command, while the machine stays.
    if [ -d "$OUT/snapshot" ]; then
        rm -rf /tmp/proof/snapshot
        mkdir -p /tmp/proof
        cp -r "$OUT/snapshot" /tmp/proof/snapshot
    fi
}
ablations() {
    python3 -m benchmarks.proof.ablations --clips "$folder" --to "$OUT" --stop-after "$left" \
        --have benchmarks/results/proof "$@"
}
case $part in
    videomamba | frames | vit) train --arm "$part" $EXTRA "$@" ;;
    resume) train --resume "$@" ;;
    ablations) ablations $EXTRA "$@" ;;
    plan)
        train --plan $EXTRA "$@"
        ablations --plan $EXTRA
        ;;
    *)
        echo "no part $part; choose videomamba, resume, frames, vit, ablations or plan" >&2
        exit 2
        ;;
esac
