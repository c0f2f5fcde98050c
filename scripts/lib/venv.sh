# Sourced by the scripts that need Python packages: the checkout's own virtual environment, .venv.

VENV=.venv
REQUIREMENTS=(requirements/{runtime,build,test,check,mail}.txt)

# Make .venv, or make it anew when a pin, the metadata or the Python has changed; else do nothing.
ensure_venv() {
    PATH=${PATH//"$PWD/$VENV/bin:"/} # where .venv is activated, python3 would be one that is about to be removed
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        die "python3 of version 3.11 or later is missing: apt-get install python3 python3-venv"

    local lock stamp
    exec {lock}<requirements # two scripts started at once: the second waits for the first
    flock "$lock"
    stamp=$(sha256sum pyproject.toml "${REQUIREMENTS[@]}" && python3 -VV)
    if [[ $stamp != "$(cat $VENV/stamp 2>/dev/null)" ]]; then
        say "making $VENV with the pinned requirements"
        rm -rf $VENV
        quietly python3 -m venv $VENV || die "python3 cannot make a virtual environment: apt-get install python3-venv"
        quietly $VENV/bin/pip install --require-hashes "${REQUIREMENTS[@]/#/--requirement=}" ||
            die "the packages could not be installed: does pip reach its index?"
        # Editable, by the pinned build backend.
        quietly $VENV/bin/pip install --no-build-isolation --no-deps --no-index --editable .
        echo "$stamp" >$VENV/stamp # last: a run that was interrupted is done again
    fi
    # An installed multihost has its bytecode. Where Python is told to write none, each process would compile the sources.
    $VENV/bin/python -m compileall -q multihost || true # what is wrong with them, the checks say better
    exec {lock}<&-
}
