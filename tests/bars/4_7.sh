#!/usr/bin/env bash
# Bar 7 of issue #4: every trap has tests named after it (docs/traps.md), and they pass. Fails if one of the traps 1 to 12 has no test, a
# test does not exist, none of a trap's names has its number, or one does not pass or is skipped. `4_7.sh N ...`: these traps only.
cd "$(dirname "$0")/../.." && . tests/bars/bar.sh

status=0 seen=" "
while IFS='|' read -r _ trap what _ tests _; do
  trap="$(echo "$trap" | tr -d ' ')"
  [ $# = 0 ] || [[ " $* " == *" $trap "* ]] || continue
  holds=0 named=0
  while read -r program filter; do
    [[ "${filter,,}" =~ trap$trap([^0-9]|$) ]] && named=1
    if [[ "$program" == *.py ]]; then
      said="$("$PYTHON" "$program" "$filter" 2>&1)"
      code=$?
      echo "     $program $filter: $(grep -c '^ok' <<<"$said") checks passed, exit status $code"
      [ $code = 0 ] || { holds=1; grep -v '^ok' <<<"$said" | tail -5; }
    else
      run_tests "$program" "$filter" || holds=1
    fi
  done < <(echo "$tests" | grep -o '`[^`]*`' | tr -d '`')
  [ $named = 1 ] || { echo "     no test is named after it"; holds=1; }
  [ $holds = 0 ] && verdict=PASS || { verdict=FAIL; status=1; }
  echo "$verdict ${trap:+trap $trap: }$(echo "$what" | sed 's/^ *//; s/ *$//')"
  seen+="$trap "
done < <(grep -E '^\| *[0-9]* *\| [^|]*\|[^|]*\| `' docs/traps.md)
for trap in ${*:-$(seq 12)}; do
  [[ "$seen" == *" $trap "* ]] || { echo "FAIL trap $trap is not in docs/traps.md"; status=1; }
done
verdict 4.7 "every trap has its test" $status
