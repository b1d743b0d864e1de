#!/usr/bin/env bash
# Sourced by the launch scripts: settings that must be there, and DRY_RUN=1.

# act COMMAND...: runs it; with DRY_RUN=1 prints it instead, as one would type it.
act() {
  if is_dry; then quoted "$@"; else "$@"; fi
}

is_dry() { [ "${DRY_RUN:-0}" = 1 ]; }

# quoted WORD...: one line that a shell reads back as these words.
quoted() {
  local word line="" quote="'" escaped="'\\''"
  for word in "$@"; do
    case "$word" in
      "" | *[!A-Za-z0-9_./:=,@%+-]*) word="$quote${word//$quote/$escaped}$quote" ;;
    esac
    line="$line $word"
  done
  printf '%s\n' "${line# }"
}

# need NAME EXAMPLE...: ends the script unless every NAME is set.
need() {
  while [ $# -gt 0 ]; do
    [ -n "${!1:-}" ] || die "$1 is not set: export $1=$2"
    shift 2
  done
}

die() {
  echo "error: $*" >&2
  exit 2
}
