#!/bin/sh
# Tokens and passwords of one box, each made once, in files: for resmap's account alone, or for its group where another
# service reads it. Usage: make-tokens.sh FOLDER
set -eu
folder=$1
umask 077

# NAME MODE: the token that is there, or a new one of 256 bits; whole or not at all.
token() {
    [ -s "$folder/$1" ] && return
    python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$folder/.$1"
    chmod "$2" "$folder/.$1"
    mv "$folder/.$1" "$folder/$1"
}

# TEXT NAME MODE: what follows from a token, made anew each time.
follows() {
    printf '%s' "$1" > "$folder/.$2"
    chmod "$3" "$folder/.$2"
    mv "$folder/.$2" "$folder/$2"
}

token ray 600
token resmap 600
token postgres 640
token grafana 640
follows "postgres:5432:*:resmap:$(cat "$folder/postgres")" pgpass 600
follows "$(cat "$folder/ray")" scrape-ray 640
follows "$(cat "$folder/resmap")" scrape-resmap 640
