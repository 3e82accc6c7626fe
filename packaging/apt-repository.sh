#!/bin/sh
# Makes, or makes anew, a local apt repository of packages: a folder to be shared by a web server, or read as it is.
#
#   sh packaging/apt-repository.sh [--sign KEY] FOLDER PACKAGE.deb...
#
# KEY is a key of your gpg, by whose signature hosts know the repository; the public half goes into FOLDER/key.gpg.
# Without it every host must be told to trust the folder. At the end it prints the line for sources.list.d.
# Needs dpkg-dev and, to sign, gnupg.
set -eu

die() {
    printf 'apt-repository.sh: %s\n' "$1" >&2
    exit "$2"
}
usage='usage: sh packaging/apt-repository.sh [--sign KEY] FOLDER PACKAGE.deb...'

key=
if [ "${1:-}" = --sign ]; then
    [ $# -ge 2 ] || die "$usage" 64
    key=$2
    shift 2
fi
[ $# -ge 2 ] || die "$usage" 64
folder=$1
shift
command -v dpkg-scanpackages >/dev/null || die 'dpkg-scanpackages is missing: apt-get install dpkg-dev' 69
[ -z "$key" ] || command -v gpg >/dev/null || die 'gpg is missing: apt-get install gnupg' 69
for package in "$@"; do
    dpkg-deb --field "$package" Package >/dev/null || die "$package is no Debian package" 65
done

mkdir -p "$folder"
for package in "$@"; do
    # One that lies there already is in its place.
    [ "$package" -ef "$folder/${package##*/}" ] || cp "$package" "$folder"
done
cd "$folder"
dpkg-scanpackages --multiversion . >Packages 2>/dev/null
gzip -9nkf Packages
{
    echo 'Origin: mainstay'
    echo 'Label: mainstay'
    echo 'Suite: stable'
    printf 'Date: '
    LC_ALL=C date -u '+%a, %d %b %Y %H:%M:%S UTC'
    echo "Architectures: $(sed -n 's/^Architecture: //p' Packages | sort -u | grep -v '^all$' | tr '\n' ' ')all"
    echo 'SHA256:'
    for file in Packages Packages.gz; do
        printf ' %s %s %s\n' "$(sha256sum $file | cut -d ' ' -f 1)" "$(wc -c <$file)" $file
    done
} >Release
rm -f InRelease key.gpg
options='[trusted=yes]'
if [ -n "$key" ]; then
    gpg --batch --yes --local-user "$key" --clearsign --output InRelease Release
    gpg --batch --yes --export "$key" >key.gpg
    options="[signed-by=$(pwd -P)/key.gpg]"
fi
echo "deb $options file:$(pwd -P) ./"
