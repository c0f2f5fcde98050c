# Sourced first by every script: strict mode is the script's own, the rest is here.

SELF=$(realpath "$0")

# Whatever directory a script is called from, it works from the root of the checkout.
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit

say() { # progress, on stderr: stdout belongs to what a script is asked for
    printf '%s: %s\n' "${0##*/}" "$*" >&2
}

die() {
    say "$*"
    exit 1
}

quietly() { # quietly COMMAND...: what it prints is shown only when it fails
    local output status=0
    output=$("$@" 2>&1) || status=$?
    ((status == 0)) || printf '%s\n' "$output" >&2
    return "$status"
}

# The comment at the head of a script is its help: one text, in one place.
help_asked() { # help_asked "$@": print it and leave when the first argument asks for it
    case ${1-} in
        -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$SELF" && exit ;;
    esac
}
