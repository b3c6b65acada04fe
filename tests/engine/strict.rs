//! `sandbox: "strict"`: what a step cannot see, also as root, and how steps stay separate. Both sandboxes with a program
//! that is installed in the home folder.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::process::finished;
use super::support::TestSpace;

/// Runs a line in the sandbox with a secret in the environment of the run. Returns the content of `{out}/x`, which is
/// empty if the line wrote nothing.
fn ran(line: &str, as_user: bool) -> String {
    let steps = format!(
        r#"(name: "a", stage: "command", params: (shell: "touch {{out}}/x; ({line}) > {{out}}/x 2> /dev/null || true", sandbox: "strict"), publish: "a"),"#
    );
    let space = TestSpace::new(&steps);
    space.write("f", "PROJECTSECRET");
    let mut command = if as_user { space.command_as_user(&["make"]) } else { space.command(&["make"]) };
    finished(command.env("TOKEN", "SEKRET").output().unwrap()).expect(0);
    space.read("reports/mini/a/x")
}

#[test]
fn no_other_process_can_be_read_or_signaled() {
    for as_user in [true, false] {
        for line in [
            r"tr '\\0' '\\n' < /proc/$PPID/environ",
            r"for p in /proc/[0-9]*; do [ $p = /proc/$$ ] || cat $p/environ; done | tr '\\0' '\\n' | grep SEKRET",
            "cat /proc/$PPID/cwd/f",
            "cat /proc/$PPID/root/etc/hostname",
            "head -c 100 /proc/$PPID/maps",
            "ls -l /proc/$PPID/fd/ | grep -- '->'",
            "kill -0 $PPID && echo reached",
            "kill -0 1 && echo reached",
        ] {
            assert_eq!(ran(line, as_user), "", "{line} (as a user: {as_user})");
        }
        assert_eq!(ran("grep -c SEKRET /proc/self/environ", as_user), "0\n");
    }
}

#[test]
fn steps_share_no_memory_files_and_no_temporary_files() {
    for as_user in [true, false] {
        let name = format!("repro-test-{}-{as_user}", std::process::id());
        let steps = format!(
            r#"(name: "w", stage: "command", params: (shell: "for d in /dev/shm /tmp /var/tmp /dev/mqueue /run; do (echo hidden > $d/{name}) 2> /dev/null || true; done; echo 1 > {{out}}/x", sandbox: "strict")),
               (name: "r", stage: "command", inputs: {{"w": "w"}}, params: (shell: "cat /dev/shm/{name} /tmp/{name} /var/tmp/{name} /dev/mqueue/{name} /run/{name} > {{out}}/x 2> /dev/null || true", sandbox: "strict"), publish: "r"),"#
        );
        let space = TestSpace::new(&steps);
        let mut command = if as_user { space.command_as_user(&["make"]) } else { space.command(&["make"]) };
        finished(command.output().unwrap()).expect(0);
        assert_eq!(space.read("reports/mini/r/x"), "");
        for folder in ["/dev/shm", "/tmp", "/var/tmp"] {
            assert!(!std::path::Path::new(folder).join(&name).exists(), "{folder}");
        }
    }
}

/// A memory file of another process is not an input either.
#[test]
fn memory_files_of_other_processes_are_invisible() {
    let file = format!("/dev/shm/repro-outside-{}", std::process::id());
    if fs::write(&file, "outside").is_err() {
        return;
    }
    assert_eq!(ran(&format!("cat {file}"), true), "");
    assert_eq!(ran(&format!("cat {file}"), false), "");
    fs::remove_file(&file).unwrap();
}

/// What programs need even so.
#[test]
fn devices_and_the_own_process_are_accessible() {
    for as_user in [true, false] {
        assert_eq!(ran("head -c 2 /dev/zero | wc -c; echo x > /dev/null && echo ok", as_user), "2\nok\n");
        assert_eq!(
            ran(
                "cat < /dev/fd/0 < /dev/null; grep -c Name: /proc/self/status; grep -q processor /proc/cpuinfo && echo ok",
                as_user
            ),
            "1\nok\n"
        );
        assert_eq!(ran("head -c 4 /dev/urandom | wc -c", as_user), "4\n");
        // It may end its own children.
        assert_eq!(ran("sleep 60 & kill $! && echo ok", as_user), "ok\n");
    }
}

/// A tool in an environment below the home folder, with 87 files of its own, reads a file of the project by its path.
#[test]
fn an_environment_in_the_home_folder_is_one_line_of_a_report_and_readable_in_strict() {
    let space = TestSpace::new("");
    space.write("paper/helper.py", "helper");
    space.write("paper/data", "data");
    space.write("home/.tools/pyvenv.cfg", "");
    for at in 0..87 {
        space.write(&format!("home/.tools/lib/{at}"), "");
    }
    space.write("home/.tools/bin/tool", "#!/bin/sh\ncat $HOME/.tools/lib/* $1 $2\n");
    let tool = fs::Permissions::from_mode(0o755);
    fs::set_permissions(space.path("home/.tools/bin/tool"), tool).unwrap();
    let home = space.path("home").canonicalize().unwrap();
    let path = format!("{}:{}", home.join(".tools/bin").display(), std::env::var("PATH").unwrap());
    let made = |sandbox: &str, files: &str, code: i32| {
        space.write(
            "paper/pipeline.ron",
            &format!(
                r#"(steps: [(name: "a", stage: "command", inputs: {{"data": "./data"}},
                    params: (run: ["tool", "{{input.data}}", "{files}"], stdout: "x", sandbox: "{sandbox}"))])"#
            ),
        );
        let mut command = space.command(&["make"]);
        command.current_dir(space.path("paper")).env("HOME", &home).env("PATH", &path);
        finished(command.output().unwrap()).expect(code).err
    };
    let helper = space.path("paper/helper.py").display().to_string();
    let said = made("report", &helper, 0);
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("it read")).collect();
    assert!(lines.len() <= 5, "{said}");
    assert!(lines[0].ends_with("of the project that is not among its inputs: helper.py"), "{said}");
    let own = format!("it read 87 files of programs under {}", home.join(".tools").display());
    assert!(lines[1].contains(&own), "{said}");
    assert!(made("strict", "", 0).contains("1 step ran"));
    assert!(made("strict", &helper, 1).contains("it was denied 1 file of the project"));
}
