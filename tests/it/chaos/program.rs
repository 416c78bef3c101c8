//! `popbridge chaos-server` as a user starts it.

use std::process::Stdio;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::Command,
    time::timeout,
};

use super::{DEADLINE, LOGIN};

#[tokio::test]
async fn program_says_where_it_is_serves_files_and_stops_when_told() {
    let maildir = tempfile::tempdir().unwrap();
    std::fs::write(maildir.path().join("b.eml"), "Subject: b\n\n.\n").unwrap();
    std::fs::write(maildir.path().join("a.eml"), "Subject: a\n\n").unwrap();
    std::fs::write(maildir.path().join("README"), "no mail").unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_popbridge"))
        .args(["chaos-server", "--listen", "127.0.0.1:0", "--log-commands"])
        .args(["--user", "anna", "--reply", "NOOP=-ERR [SYS/TEMP] no"])
        .arg("--maildir")
        .arg(maildir.path())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let run = async {
        let mut output = BufReader::new(program.stdout.take().unwrap()).lines();
        let line = output.next_line().await.unwrap().unwrap();
        let (address, rest) = line
            .strip_prefix("POP3 on ")
            .and_then(|line| line.split_once(", "))
            .expect("it says where it is");
        assert_eq!(rest, "user anna, password demo, 2 messages, tls none");

        let mut line = TcpStream::connect(address).await.unwrap();
        let script =
            LOGIN.replace("demo\r\nPASS", "anna\r\nPASS") + "RETR 2\r\nNOOP\r\nDELE 2\r\nQUIT\r\n";
        line.write_all(script.as_bytes()).await.unwrap();
        let mut answers = String::new();
        line.read_to_string(&mut answers).await.unwrap();
        assert!(
            answers.ends_with(
                "+OK 17 octets\r\nSubject: b\r\n\r\n..\r\n.\r\n\
                -ERR [SYS/TEMP] no\r\n+OK deleted\r\n+OK bye\r\n"
            ),
            "{answers}"
        );
        assert!(
            maildir.path().join("b.eml").exists(),
            "files are left alone"
        );

        let pid = Pid::from_raw(program.id().unwrap().try_into().unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
        assert!(program.wait().await.unwrap().success());
        let mut said = Vec::new();
        while let Some(line) = output.next_line().await.unwrap() {
            said.push(line);
        }
        let commands = ["USER anna", "PASS ***", "RETR 2", "NOOP", "DELE 2", "QUIT"];
        assert_eq!(said, commands.map(|command| format!("1 {command}")));
    };
    timeout(DEADLINE, run).await.expect("it does all that");
}
