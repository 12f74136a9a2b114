#!/bin/sh
# Buy one answer with x402, by curl; sign.py stands beside this file.
set -eu
url=${PARHELION_URL:-http://127.0.0.1:3001}/v1/chat/completions
ask='{"messages": [{"role": "user", "content": "Why is the sky blue?"}], "max_tokens": 24}'

ask() { curl -s "$url" -H 'Content-Type: application/json' -d "$ask" "$@"; }
offers=$(ask -o /dev/null -D - | tr -d '\r' | sed -n 's/^payment-required: //p')
payment=$("${PYTHON:-python3}" "$(dirname "$0")/sign.py" "$offers")
ask -H "PAYMENT-SIGNATURE: $payment"
