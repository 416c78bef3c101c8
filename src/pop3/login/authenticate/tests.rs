use super::*;

fn capabilities(lines: &[&str]) -> Capabilities {
    let mut capabilities = Capabilities::default();
    lines
        .iter()
        .for_each(|line| capabilities.add(line.as_bytes()));
    capabilities
}

fn choice(mechanism: PasswordMechanism, lines: Option<&[&str]>) -> Result<Mechanism, &'static str> {
    let found = lines.map(capabilities);
    choose(mechanism, b"+OK hello", found.as_ref(), true).map_err(|error| error.code())
}

#[test]
fn auto_takes_plain_where_it_is_announced_and_else_user_and_pass() {
    let auto = |lines| choice(PasswordMechanism::Auto, lines);
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
        choice(PasswordMechanism::UserPass, Some(&["SASL PLAIN"])),
        Ok(Mechanism::UserPass)
    );
    assert_eq!(choice(PasswordMechanism::Plain, None), Ok(Mechanism::Plain));
    assert_eq!(
        choice(PasswordMechanism::Plain, Some(&["USER"])),
        Ok(Mechanism::Plain)
    );
    assert_eq!(
        choice(PasswordMechanism::Plain, Some(&["USER", "SASL LOGIN"])),
        Err("auth_unsupported")
    );
    assert_eq!(
        choice(PasswordMechanism::Apop, Some(&["USER"])),
        Err("auth_unsupported")
    );
}

#[test]
fn a_refusal_of_plain_text_names_tls() {
    let found = capabilities(&["SASL"]);
    let error = choose(PasswordMechanism::Auto, b"+OK", Some(&found), false).unwrap_err();
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

const LOGIN: Login<'_> = Login {
    username: "user",
    password: "hunter2",
};

fn code_of(reply: &str) -> &'static str {
    refused(reply.as_bytes(), LOGIN).code()
}

#[test]
fn refusals_at_login_are_told_apart() {
    for (reply, code) in [
        ("[AUTH] Authentication failed.", "auth_failed"),
        ("[IN-USE] busy", "in_use"),
        ("[LOGIN-DELAY] slow down", "login_delay"),
        ("[SYS/TEMP] try later", "server_temporary"),
        ("[SYS/PERM] broken", "server_permanent"),
        ("invalid password", "auth_failed"),
        ("Your mailbox is already locked", "in_use"),
        ("Server Unavailable. 21", "server_temporary"),
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
    for reply in [
        "bad line: PASS hunter2",
        "bad line: AUTH PLAIN AHVzZXIAaHVudGVyMg==",
    ] {
        let error = refused(reply.as_bytes(), LOGIN).to_string();
        assert!(error.contains("***"), "{error}");
        assert!(
            !error.contains("hunter2") && !error.contains("AHVzZXI"),
            "{error}"
        );
    }
}

#[test]
fn a_long_response_goes_in_a_line_of_its_own() {
    assert!(Plain::new("user", "hunter2").auth().is_some());
    assert!(Plain::new("user", &"x".repeat(300)).auth().is_none());
}
