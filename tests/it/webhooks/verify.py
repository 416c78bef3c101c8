"""Verifies a webhook with the reference implementation of Standard Webhooks.

Standard input: {"secret": "whsec_…", "headers": {…}, "body": "…"}. Exit code 0: it verifies, and
neither a changed body nor another secret does.
"""

import base64
import json
import sys

from standardwebhooks import Webhook, WebhookVerificationError


def verifies(secret: str, body: str, headers: dict[str, str]) -> bool:
    try:
        Webhook(secret).verify(body, headers)
    except WebhookVerificationError:
        return False
    return True


given = json.load(sys.stdin)
secret, headers, body = given["secret"], given["headers"], given["body"]
other = "whsec_" + base64.b64encode(bytes(32)).decode()
if not verifies(secret, body, headers):
    sys.exit("the webhook does not verify")
if verifies(secret, body + " ", headers):
    sys.exit("a changed body verifies")
if verifies(other, body, headers):
    sys.exit("another secret verifies")
