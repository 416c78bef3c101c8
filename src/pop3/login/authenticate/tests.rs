use super::*;

fn capabilities(lines: &[&str]) -> Capabilities {
    let mut capabilities = Capabilities::default();
    lines
        .iter()
        .for_each(|line| capabilities.add(line.as_bytes()));
    capabilities
}

fn choice(auth: Auth, lines: Option<&[&str]>) -> Result<Mechanism, &'static str> {
    let found = lines.map(capabilities);
    choose(auth, b"+OK hello", found.as_ref(), true).map_err(|error| error.code())
}

#[test]
fn auto_takes_plain_where_it_is_announced_and_else_user_and_pass() {
    let auto = |lines| choice(Auth::Auto, lines);
    assert_eq!(
        auto(Some(&["USER", "SASL LOGIN PLAIN"])),
        Ok(Mechanism::Plain)
    );
    assert_eq!(
        auto(Some(&["USER", "SASL XOAUTH2"])),
        Ok(Mechanism::UserPass)
    );
    assert_eq!(auto(Some(&["USER"])), Ok(Mechanism::UserPass));
    assert_eq!(auto(Some(&["TOP", "UIDL"])), Ok(Mechanism::UserPass));
    assert_eq!(auto(None), Ok(Mechanism::UserPass));
    assert_eq!(auto(Some(&["SASL XOAUTH2"])), Err("auth_unsupported"));
}

#[test]
fn a_mechanism_asked_for_by_name_is_never_replaced() {
    assert_eq!(
        choice(Auth::UserPass, Some(&["SASL PLAIN"])),
        Ok(Mechanism::UserPass)
    );
    assert_eq!(choice(Auth::Plain, None), Ok(Mechanism::Plain));
    assert_eq!(choice(Auth::Plain, Some(&["USER"])), Ok(Mechanism::Plain));
    assert_eq!(
        choice(Auth::Plain, Some(&["USER", "SASL LOGIN"])),
        Err("auth_unsupported")
    );
    assert_eq!(choice(Auth::Apop, Some(&["USER"])), Err("auth_unsupported"));
}

#[test]
fn a_refusal_of_plain_text_names_tls() {
    let found = capabilities(&["SASL"]);
    let error = choose(Auth::Auto, b"+OK", Some(&found), false).unwrap_err();
    assert_eq!(error.code(), "auth_unsupported");
    assert!(error.to_string().contains("tls"), "{error}");
}

#[test]
fn apop_wants_a_timestamp_that_looks_like_one() {
    for (greeting, expected) in [
        (
            "+OK ready <1896.697170952@dbc.mtview.ca.us>",
            Some("<1896.697170952@dbc.mtview.ca.us>"),
        ),
        ("+OK <a@b> bye", Some("<a@b>")),
        ("+OK ready", None),
        ("+OK <>", None),
        ("+OK <a>", None),
        ("+OK <@b>", None),
        ("+OK <a@>", None),
        ("+OK <a@b@c>", None),
        ("+OK <a b@c>", None),
        ("+OK <a@b", None),
    ] {
        assert_eq!(
            timestamp(greeting.as_bytes()).as_deref(),
            expected,
            "{greeting}"
        );
    }
    assert_eq!(timestamp(b"+OK <a\xff@b>"), None);
}

fn code_of(reply: &str) -> &'static str {
    let credentials = credentials("user", "hunter2");
    refused(reply.as_bytes(), &credentials).code()
}

fn credentials(username: &str, password: &str) -> Credentials {
    Credentials {
        username: username.into(),
        password: password.into(),
        auth: Auth::Auto,
    }
}

#[test]
fn refusals_at_login_are_told_apart() {
    for (reply, code) in [
        ("[AUTH] Authentication failed.", "auth_failed"),
        ("[IN-USE] busy", "in_use"),
        ("[LOGIN-DELAY] slow down", "login_delay"),
        ("[SYS/TEMP] try later", "server_temporary"),
        ("[SYS/PERM] broken", "server_permanent"),
        ("[AUTH] maildrop in use", "auth_failed"),
        ("invalid password", "auth_failed"),
        ("", "auth_failed"),
        ("Unable to lock maildrop", "in_use"),
        ("Your mailbox is already in use by another user", "in_use"),
        ("Your account has been locked", "auth_failed"),
        ("Server Unavailable. 21", "server_temporary"),
        ("too many connections", "server_temporary"),
        (
            "\u{767b}\u{5f55}\u{9891}\u{7387}\u{592a}\u{9ad8}",
            "server_temporary",
        ),
        (
            "Plaintext authentication disallowed on non-secure connections.",
            "auth_unsupported",
        ),
    ] {
        assert_eq!(code_of(reply), code, "{reply}");
    }
}

#[test]
fn a_password_that_the_server_repeats_is_not_passed_on() {
    let credentials = credentials("user", "hunter2");
    for reply in [
        "bad line: PASS hunter2",
        "bad line: AUTH PLAIN AHVzZXIAaHVudGVyMg==",
    ] {
        let error = refused(reply.as_bytes(), &credentials).to_string();
        assert!(error.contains("***"), "{error}");
        assert!(
            !error.contains("hunter2") && !error.contains("AHVzZXI"),
            "{error}"
        );
    }
}

#[test]
fn debug_output_shows_no_credential() {
    let shown = format!("{:?}", credentials("user@example.com", "hunter2"));
    assert_eq!(shown, "Credentials { auth: Auto, .. }");
}

#[test]
fn a_long_response_goes_in_a_line_of_its_own() {
    assert!(Plain::new("user", "hunter2").auth().is_some());
    assert!(Plain::new("user", &"x".repeat(300)).auth().is_none());
}
