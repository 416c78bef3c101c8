//! A machine of its own for a server: its package installed, its users known, its mail in place.
//!
//! POP3 servers expect to be alone: Debian lets only one be installed, and their paths and users
//! are fixed. So each gets a namespace for mounts and processes, in which the package, unpacked by
//! `script/bootstrap --test`, lies over the machine's own `/usr` and `/etc`, and `/var`, `/run`
//! and `/home` are private. Nothing outside changes, and all of it ends with its first process.
//! Only root can have one: the servers change to the user whose mail they serve.

use std::{
    fs,
    io::Read,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid},
};

use super::server::USERNAME;

/// Whom mail belongs to.
pub(super) const USER_ID: u32 = 1500;

/// The user's password as `/etc/shadow` has it.
const PASSWORD_HASH: &str = "$6$popbridge$hbdnB.02Fu2QOrp/JrNv7GkymS3Eb1or9HkODOcX4Zbu6HEZd/x6O9uAQ/jiUA5vLT0eh8bRrZK//BF7em.th1";

/// Users of the packages. Debian's would be made by scripts that are not run here.
const SERVICE_USERS: &[(&str, u32)] = &[
    ("popa3d", 990),
    ("spop3d", 991),
    ("stunnel4", 992),
    ("courier", 993),
    ("cyrus", 994),
];

const BOOT: &str = r#"
    root=$1 dir=$2
    etc=$dir/etc:
    [ ! -d "$root/etc" ] || etc=$etc$root/etc:
    mount -t overlay overlay -o "lowerdir=$root/usr:/usr" /usr
    mount -t overlay overlay -o "lowerdir=$etc/etc" /etc
    for private in home run var; do mount --bind "$dir/$private" "/$private"; done
    read -r pid rest </proc/self/stat
    echo "$pid"
    exec sleep infinity
"#;

/// A running machine; all its processes end when it is dropped.
pub(super) struct Machine {
    dir: PathBuf,
    unshare: Child,
    /// The first process.
    pid: Pid,
}

impl Machine {
    /// Prepares a machine with a package below `dir`; what is put into its directories before
    /// [`Machine::boot`] is there from the start.
    pub(super) fn prepare(dir: &Path, pam_service: &str) {
        assert!(
            Uid::effective().is_root(),
            "only root can run this server: it changes to the user whose mail it serves"
        );
        for path in ["etc/pam.d", "home", "run/lock", "var/mail", "var/lib"] {
            fs::create_dir_all(dir.join(path)).unwrap();
        }
        std::os::unix::fs::symlink("/run", dir.join("var/run")).unwrap();
        std::os::unix::fs::symlink("/run/lock", dir.join("var/lock")).unwrap();
        // As on every machine: whoever can deliver mail can make lock files.
        let everybody = fs::Permissions::from_mode(0o1777);
        for path in ["run/lock", "var/mail"] {
            fs::set_permissions(dir.join(path), everybody.clone()).unwrap();
        }
        let home = dir.join("home").join(USERNAME);
        fs::create_dir(&home).unwrap();
        own(&home);

        let mut users = format!(
            "root:x:0:0::/root:/bin/sh\n\
            nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n\
            {USERNAME}:x:{USER_ID}:{USER_ID}::/home/{USERNAME}:/bin/sh\n"
        );
        let mut groups =
            format!("root:x:0:\nmail:x:8:\nnogroup:x:65534:\n{USERNAME}:x:{USER_ID}:\n");
        for (name, id) in SERVICE_USERS {
            users += &format!("{name}:x:{id}:{id}::/var/lib/{name}:/usr/sbin/nologin\n");
            groups += &format!("{name}:x:{id}:\n");
            fs::create_dir(dir.join("var/lib").join(name)).unwrap();
        }
        let etc = dir.join("etc");
        fs::write(etc.join("passwd"), users).unwrap();
        fs::write(etc.join("group"), groups).unwrap();
        let shadow = format!("{USERNAME}:{PASSWORD_HASH}:20000:0:99999:7:::\n");
        fs::write(etc.join("shadow"), shadow).unwrap();
        fs::write(
            etc.join("nsswitch.conf"),
            "passwd: files\ngroup: files\nshadow: files\n",
        )
        .unwrap();
        // A refused login is answered at once.
        let pam = "auth required pam_unix.so nodelay\naccount required pam_unix.so\n";
        fs::write(etc.join("pam.d").join(pam_service), pam).unwrap();
    }

    /// Boots the machine below `dir` with the packages that the bootstrap unpacked under this name.
    pub(super) fn boot(dir: &Path, packages: &str) -> Self {
        let unpacked = std::env::var_os("POPBRIDGE_TEST_POP3_SERVERS")
            .expect("tests run by script/with-postgres, which says where the POP3 servers are");
        let root = Path::new(&unpacked).join(packages);
        assert!(
            root.join("usr").is_dir(),
            "{packages} is not unpacked: run script/bootstrap --test (Debian)"
        );
        let mut unshare = Command::new("unshare")
            .args(["--mount", "--propagation", "private"])
            .args([
                "--pid",
                "--fork",
                "--kill-child",
                "sh",
                "-euc",
                BOOT,
                "boot",
            ])
            .args([root.as_path(), dir])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pid = Vec::new();
        let mut stdout = unshare.stdout.take().unwrap();
        let mut octet = [0];
        while stdout.read(&mut octet).unwrap() == 1 && octet != *b"\n" {
            pid.push(octet[0]);
        }
        let pid = String::from_utf8(pid).unwrap().parse();
        Self {
            dir: dir.to_owned(),
            unshare,
            pid: Pid::from_raw(pid.expect("the machine boots")),
        }
    }

    /// What runs commands on this machine.
    pub(super) fn command(
        &self,
        program: &str,
        arguments: &[&str],
    ) -> impl Fn() -> Command + Send + use<> {
        let (pid, program) = (self.pid.to_string(), program.to_owned());
        let arguments: Vec<String> = arguments.iter().map(|&text| text.to_owned()).collect();
        move || {
            let mut command = Command::new("nsenter");
            command
                .args([
                    "--target", &pid, "--mount", "--pid", "--wd=/", "--", &program,
                ])
                .args(&arguments);
            command
        }
    }

    /// A path of this machine, seen from outside.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.dir.join(path.trim_start_matches('/'))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The kernel ends everybody else on the machine with it, before it is gone itself.
        kill(self.pid, Signal::SIGKILL).ok();
        self.unshare.wait().ok();
    }
}

/// Gives a file, or a directory with all that it has, to the user whose mail it is.
pub(super) fn own(path: &Path) {
    chown(path, Some(USER_ID), Some(USER_ID)).unwrap();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            own(&entry.unwrap().path());
        }
    }
}
