"""The text of the files in /etc that Atoll writes itself into machine-derived templates."""

from __future__ import annotations

USER_ID = 1000
"""uid and gid of `user` inside every sandbox."""

NAME_SERVER = "192.0.2.1"
"""Where a sandbox with a network asks for names; see launch/linux/network_rules.py."""

_NOLOGIN = "/usr/sbin/nologin"

PASSWD = f"""\
root:x:0:0:root:/root:/bin/bash
user:x:{USER_ID}:{USER_ID}::/home/user:/bin/bash
daemon:x:1:1:daemon:/usr/sbin:{_NOLOGIN}
bin:x:2:2:bin:/bin:{_NOLOGIN}
sys:x:3:3:sys:/dev:{_NOLOGIN}
man:x:6:12:man:/var/cache/man:{_NOLOGIN}
mail:x:8:8:mail:/var/mail:{_NOLOGIN}
www-data:x:33:33:www-data:/var/www:{_NOLOGIN}
_apt:x:42:65534::/nonexistent:{_NOLOGIN}
nobody:x:65534:65534:nobody:/nonexistent:{_NOLOGIN}
"""

_GROUPS = {
    "root": 0,
    "user": USER_ID,
    "daemon": 1,
    "bin": 2,
    "sys": 3,
    "adm": 4,
    "tty": 5,
    "disk": 6,
    "man": 12,
    "mail": 8,
    "www-data": 33,
    "utmp": 43,
    "shadow": 42,
    "staff": 50,
    "users": 100,
    "nogroup": 65534,
}

GROUP = "".join(f"{name}:x:{number}:\n" for name, number in _GROUPS.items())
GSHADOW = "".join(f"{name}:*::\n" for name in _GROUPS)
# `!` matches no password (shadow(5)): nobody logs in by one.
SHADOW = "".join(f"{line.split(':')[0]}:!:19000:0:99999:7:::\n" for line in PASSWD.splitlines())

PROFILE = """\
# PATH is the template's; a login shell keeps it.
: "${PATH:=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}"
export PATH
if [ -n "${BASH_VERSION-}" ] && [ -n "${PS1-}" ] && [ -r /etc/bash.bashrc ]; then
  . /etc/bash.bashrc
fi
for script in /etc/profile.d/*.sh; do
  [ -r "$script" ] && . "$script"
done
unset script
"""

BASHRC = """\
case $- in *i*) ;; *) return ;; esac
PS1='\\u@\\h:\\w\\$ '
shopt -s checkwinsize
"""

HOSTS = """\
127.0.0.1 localhost sandbox
::1 localhost ip6-localhost ip6-loopback
"""

NSSWITCH = """\
passwd: files
group: files
shadow: files
gshadow: files
hosts: files dns
networks: files
protocols: files
services: files
ethers: files
rpc: files
"""

LOGIN_DEFS = """\
UID_MIN 1000
UID_MAX 60000
GID_MIN 1000
GID_MAX 60000
UMASK 022
ENCRYPT_METHOD YESCRYPT
"""

OWN_FILES: dict[str, tuple[str, int]] = {
    "passwd": (PASSWD, 0o644),
    "group": (GROUP, 0o644),
    "shadow": (SHADOW, 0o640),
    "gshadow": (GSHADOW, 0o640),
    "profile": (PROFILE, 0o644),
    "bash.bashrc": (BASHRC, 0o644),
    "hosts": (HOSTS, 0o644),
    "hostname": ("sandbox\n", 0o644),
    "host.conf": ("multi on\n", 0o644),
    # One without a network has no route to it, and knows so at once.
    "resolv.conf": (f"nameserver {NAME_SERVER}\noptions timeout:1 attempts:1\n", 0o644),
    "nsswitch.conf": (NSSWITCH, 0o644),
    "login.defs": (LOGIN_DEFS, 0o644),
    "shells": ("/bin/sh\n/bin/bash\n/usr/bin/sh\n/usr/bin/bash\n", 0o644),
    "fstab": ("", 0o644),
    "environment": ("", 0o644),
    "machine-id": ("", 0o644),
    "motd": ("", 0o644),
}
"""Name in /etc to text and mode."""

COPIED_FROM_ETC: tuple[str, ...] = (
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "alternatives",
    "ssl/certs",
    "ssl/openssl.cnf",
    "pki/ca-trust",
    "pki/tls/certs",
    "pki/tls/cert.pem",
    "pki/tls/openssl.cnf",
    "pki/java",
    "crypto-policies",
    "ca-certificates",
    "ca-certificates.conf",
    "locale.alias",
    "locale.conf",
    "default/locale",
    "localtime",
    "timezone",
    "terminfo",
    "fonts",
    "mime.types",
    "protocols",
    "services",
    "rpc",
    "inputrc",
    "magic",
    "magic.mime",
    "os-release",
    "debian_version",
    "dpkg/origins",
    "redhat-release",
    "system-release",
    "perl",
    "python3",
    "python3.[0-9]*",
    "java",
    "java-[0-9]*",
    "R",
)
"""What a machine-derived template has of the machine's /etc: names or globs, and nothing else."""
