#!/bin/sh
[ "$1" = --list ] && cat <<'J'
{"web": {"hosts": ["web1", "web2"], "vars": {"tier": "front"}}, "old": ["web2"], "shop": {"children": ["web"]},
 "_meta": {"hostvars": {"web1": {"ansible_host": "10.1.1.1"}}}}
J
