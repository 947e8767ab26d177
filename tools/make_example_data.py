#!/usr/bin/env python3
"""Choose the 10,000 rows of examples/ from the embeddings of all packages of Debian 12.

    tools/make_example_data.py FULL.f16 FULL.names OUT_DIRECTORY

Keeps programs that people know, each with its nearest neighbours, then fills up with other
programs, evenly over the whole list. Libraries, headers, documentation, debug symbols,
translations and the modules of language ecosystems are left out.
"""
import re
import sys
from pathlib import Path

import numpy as np

DIM = 384
ROWS = 10_000
NEIGHBOURS = 40

PARTS = re.compile(
    r"^(lib|gir1\.|fonts-|xfonts-|task-|dict-|hunspell-|hyphen-|mythes-|aspell-|myspell-|wngerman|"
    r"tesseract-ocr-|golang-|node-|ruby-|r-|python3?-|php|elpa-|lua-|cl-|qml|ros-|linux-|gcc-|g\+\+|gobjc|"
    r"gfortran-|gccgo|gdc|gm2|gnat-|cpp-|binutils-|tryton-|puppet-|gambas3-|firefox-esr-l10n|"
    r"thunderbird-l10n|kodi-|apertium-|octave-|erlang-|fcitx5?-|ibus-|postgresql-\d+-|android-|"
    r"libreoffice-(help|l10n)|education-|science-|med-|gnome-shell-extension|cross|rust-|pd-)"
    r"|-(dev|doc|docs|dbg|dbgsym|data|common|examples|l10n|i18n|locales?|tests?|headers|source|"
    r"perl|java|bin-dbg|theme|themes|icons|plugins?|modules?|headless|all|full|minimal)$"
    r"|-(arm|aarch64|amd64|i386|riscv|mips|ppc|powerpc|sparc|s390x|hppa|alpha|m68k|sh4|x32|x86)"
)

KNOWN = """
nginx apache2 lighttpd caddy haproxy varnish squid tomcat10 postgresql mariadb-server sqlite3 redis
memcached mongodb git subversion mercurial vim emacs nano neovim gedit kate geany bash zsh fish
dash tmux screen htop top iotop strace ltrace gdb valgrind gcc clang cmake make ninja-build meson
python3 ruby perl nodejs ghc ocaml rustc golang r-base octave gnuplot firefox-esr chromium
thunderbird mutt evolution lynx w3m curl wget rsync openssh-server openssh-client openvpn
wireguard tcpdump nmap wireshark bind9 dnsmasq postfix exim4 dovecot-core samba nfs-kernel-server
cups gimp inkscape krita blender imagemagick darktable vlc mpv ffmpeg audacity ardour lmms
libreoffice-writer libreoffice-calc abiword gnumeric scribus texlive-latex-base pandoc latexmk
docker.io podman qemu-system-x86 virtualbox ansible puppet salt-master nagios4 munin prometheus
grafana zabbix-agent coreutils grep sed gawk findutils tar gzip bzip2 xz-utils zip unzip 7zip
parted gparted lvm2 btrfs-progs e2fsprogs smartmontools nethack-console freeciv-client-gtk wesnoth
0ad supertux gnuchess stockfish minetest xfce4 gnome-shell kde-plasma-desktop i3 openbox awesome
xterm gnome-terminal alacritty kitty hugo jekyll transmission-gtk deluge irssi weechat pidgin
keepassxc gnupg qgis grass stellarium kstars gromacs sagemath jupyter-notebook spyder anki calibre
""".split()


def choose(vectors, names):
    """Row numbers to keep, ascending."""
    usable = np.array([not PARTS.search(name) for name in names])
    row_of = {name: row for row, name in enumerate(names)}
    known = [row_of[name] for name in KNOWN if name in row_of]
    keep = set(known)
    candidates = np.flatnonzero(usable)
    scores = vectors[known].astype(np.float32) @ vectors[candidates].astype(np.float32).T
    for row_scores in scores:
        keep.update(candidates[np.argsort(-row_scores, kind="stable")[:NEIGHBOURS]].tolist())
    rest = [row for row in candidates.tolist() if row not in keep]
    missing = ROWS - len(keep)
    if missing < 0 or missing > len(rest):
        raise SystemExit(f"{len(keep)} rows with neighbours, {len(rest)} others: cannot make {ROWS}")
    step = len(rest) / missing
    keep.update(rest[int(i * step)] for i in range(missing))
    return np.array(sorted(keep)), len(known), len(candidates)


def main():
    vectors_path, names_path, out = (Path(arg) for arg in sys.argv[1:4])
    vectors = np.fromfile(vectors_path, dtype="<f2").reshape(-1, DIM)
    names = names_path.read_text().splitlines()
    assert len(names) == len(vectors)
    rows, n_known, n_candidates = choose(vectors, names)
    vectors[rows].tofile(out / "packages-384.f16")
    (out / "packages-384.names").write_text("".join(names[row] + "\n" for row in rows))
    print(f"{len(rows)} rows of {len(names)}: {n_known} known programs, {n_candidates} candidates")


if __name__ == "__main__":
    main()
