-- A mailbox proves itself with a password or with a grant of OAuth 2.0. Users set the grant; a sync
-- replaces its refresh token where the token endpoint rotates it.
ALTER TABLE popbridge.mailboxes
    -- What sealed_secret is: the password, or the grant as JSON.
    ADD COLUMN credential text NOT NULL DEFAULT 'password'
        CONSTRAINT mailboxes_credential CHECK (credential IN ('password', 'oauth2')),
    -- Goes up with each new sealed_secret: whoever replaces it names the one that was read.
    ADD COLUMN secret_version bigint NOT NULL DEFAULT 1,
    -- The access token that the grant gave last.
    ADD COLUMN sealed_access_token bytea,
    ADD COLUMN access_token_expires_at timestamptz,
    ADD CONSTRAINT mailboxes_auth_credential
        CHECK (auth = 'auto' OR (credential = 'oauth2') = (auth IN ('xoauth2', 'oauthbearer'))),
    ADD CONSTRAINT mailboxes_access_token
        CHECK ((sealed_access_token IS NULL) = (access_token_expires_at IS NULL)
            AND (credential = 'oauth2' OR sealed_access_token IS NULL));
