"""Drains a maildrop into memory with Python's poplib, message by message."""

import json
import poplib
import ssl
import sys

# poplib refuses lines that are longer than the RFC's.
poplib._MAXLINE = 1 << 20

host, port, username, password, ca = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
session = poplib.POP3_SSL(host, int(port), context=context)
session.user(username)
session.pass_(password)
session.uidl()
messages = octets = 0
for line in session.list()[1]:
    _, lines, size = session.retr(int(line.split()[0]))
    message = b"\r\n".join(lines)
    messages += 1
    octets += size
session.quit()
print(json.dumps({"messages": messages, "octets": octets}))
