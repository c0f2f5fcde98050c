# Sourced by the scripts that take packages from Debian: where from, and with which options.

# The mirror this host's apt takes Debian from and the keyring that vouches for it, as "URI KEYRING".
# Asked of apt by label, whatever its files are named and written like; nothing where the host has none.
debian_mirror() {
    local uri keyring
    read -r uri keyring < <(
        # shellcheck disable=SC2016  # apt fills these in, not the shell
        apt-get indextargets --format '$(REPO_URI) $(SIGNED_BY)' \
            'Created-By: Packages' 'Label: Debian' 'Component: main'
    ) || return 0
    # A source without Signed-By leaves the placeholder.
    [[ -f ${keyring-} ]] || keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    echo "$uri $keyring"
}

refresh_package_lists() {
    quietly apt-get update
}

install_packages() {
    # A machine that has just booted may be upgrading itself: wait for its lock, in seconds.
    DEBIAN_FRONTEND=noninteractive quietly \
        apt-get install --yes --no-install-recommends -o DPkg::Lock::Timeout=300 "$@"
}
