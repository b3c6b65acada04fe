//! Drawn steps as a pipeline file. Actions during a step are shell lines in files that its command reads and that are
//! not part of its key.

use std::fmt::Write as _;
use std::path::Path;

use super::clean::{self, IN_FOLDER};
use super::drawn::{Disturbance, Drawn, FOLDER, Leaves, NAMES, Work};

/// The path of a file of the project, from the project's root.
pub fn file(number: usize) -> String {
    if number == FOLDER { format!("folder/{}", IN_FOLDER[0]) } else { format!("file{number}") }
}

/// The name of the step with that number.
pub fn name(steps: &[Drawn], number: usize) -> String {
    format!("{}{number}", if steps[number].renamed { "renamed" } else { "s" })
}

/// The complete pipeline file with these steps.
pub fn whole(steps: &str) -> String {
    format!(
        "(default_profile: \"mini\", profiles: [(name: \"mini\", about: \"drawn\")], steps: [\n{steps}], targets: {{}})\n"
    )
}

/// The pipeline file of drawn steps. A step reads only earlier ones.
pub fn pipeline(root: &Path, drawn: &[Drawn]) -> String {
    let mut text = String::new();
    for (number, step) in drawn.iter().enumerate().filter(|(_, step)| step.present) {
        let mut inputs: Vec<String> = clean::reads(drawn, number)
            .into_iter()
            .map(|(read, part)| format!("{}{}", name(drawn, read), if part { "/text" } else { "" }))
            .collect();
        inputs.extend(step.file.map(|number| match number {
            FOLDER => "./folder".to_owned(),
            number => format!("./{}", file(number)),
        }));
        let joined = || match inputs.is_empty() {
            true => String::new(),
            false => format!("\"in\": {inputs:?}"),
        };
        let (stage, inputs, params) = match step.work {
            _ if step.fails => ("trouble", joined(), "how: \"fail\"".to_owned()),
            Work::Head if !inputs.is_empty() => ("head", joined(), format!("chars: {}", step.param)),
            Work::Head | Work::Join => ("join", joined(), format!("text: \"{}\"", step.param)),
            Work::Command(leaves) => {
                let ports = inputs.iter().enumerate().map(|(port, input)| format!("\"a{port}\": {input:?}"));
                let ports = ports.collect::<Vec<_>>().join(", ");
                let line = line(
                    root,
                    number,
                    step,
                    &clean::reads(drawn, number).into_iter().collect::<Vec<_>>(),
                    leaves,
                );
                ("command", ports, format!("shell: {line:?}"))
            }
        };
        let publish =
            step.publishes.map_or(String::new(), |to| format!(", publish: {:?}", clean::place(number, to)));
        let name = name(drawn, number);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "(name: {name:?}, stage: {stage:?}, inputs: {{{inputs}}}, params: ({params}){publish}),"
        );
    }
    whole(&text)
}

/// The shell line of a command. `$o` is its output, `$@` the texts of other steps that it reads.
fn line(root: &Path, number: usize, step: &Drawn, reads: &[(usize, bool)], leaves: Leaves) -> String {
    let texts: Vec<String> = (0..)
        .zip(reads)
        .map(|(port, (_, part))| format!("{{input.a{port}}}{}", if *part { "" } else { "/text" }))
        .collect();
    let file = step.file.map(|file| match file {
        FOLDER => format!("{{input.a{}}}/*", reads.len()),
        _ => format!("{{input.a{}}}", reads.len()),
    });
    let hook = |when: &str| {
        let path = root.join(format!("hooks/{when}{number}"));
        format!("[ ! -e {path} ] || . {path}\n", path = path.display())
    };
    let mut line = format!("o={{out}}\nset -- {}\n{}", texts.join(" "), hook("before"));
    let _ = writeln!(line, "printf {} > \"$o/text\"", step.param);
    if !texts.is_empty() || file.is_some() {
        let _ = writeln!(line, "cat \"$@\" {} >> \"$o/text\"", file.as_deref().unwrap_or_default());
    }
    for (port, _) in (0..).zip(reads).filter(|(_, (_, part))| !part) {
        let _ = writeln!(line, "[ ! -x {{input.a{port}}}/tool ] || printf X >> \"$o/text\"");
    }
    line += &match leaves {
        Leaves::Nothing => String::new(),
        Leaves::Private => "umask 077; printf p > \"$o/private\"\n".to_owned(),
        Leaves::ClosedFolder => {
            "mkdir \"$o/closed\"; printf c > \"$o/closed/inner\"; chmod 555 \"$o/closed\"\n".to_owned()
        }
        Leaves::EmptyFolder => "mkdir \"$o/empty\"\n".to_owned(),
        Leaves::Tool => "printf t > \"$o/tool\"; chmod +x \"$o/tool\"\n".to_owned(),
        Leaves::Name(name) => {
            let octal: String = NAMES[name].iter().map(|byte| format!("\\{byte:03o}")).collect();
            format!("printf n > \"$o/$(printf '{octal}')\"\n")
        }
        Leaves::Link => "ln -s text \"$o/link\"\n".to_owned(),
        Leaves::LinkInstead => {
            let away = root.join(format!("away{number}"));
            format!("rm -rf {away}; mv \"$o\" {away}; ln -s {away} \"$o\"\n", away = away.display())
        }
        Leaves::HardLink => match (step.file, file) {
            (Some(0..FOLDER), Some(file)) => format!("ln {file} \"$o/hard\"\n"),
            _ => "ln \"$o/text\" \"$o/hard\"\n".to_owned(),
        },
    };
    line + &hook("after") + "true\n"
}

/// The lines to run before and after the work of a step; `None` if the action is impossible for the step.
pub fn hooks(
    root: &Path,
    step: &Drawn,
    reads_steps: bool,
    what: Disturbance,
    text: u8,
) -> Option<(String, String)> {
    let path = |number: usize| root.join(file(number)).display().to_string();
    let (root_text, letter) = (root.display(), char::from(clean::letter(text)));
    let kept = format!("{root_text}/kept");
    // It is killed with its step, long before it would write; meanwhile a busy machine may delay the step.
    let later = |detached: &str| {
        let script = format!("exec 3>>\"$0\"; echo $$ > {root_text}/escaped; sleep 5; printf EVIL >&3");
        let started = detached.replace("SCRIPT", &format!("sh -c '{script}' \"$o/text\""));
        (String::new(), format!("{started}\nwhile [ ! -s {root_text}/escaped ]; do :; done\n"))
    };
    let (before, after) = match what {
        Disturbance::Rewritten(file) => {
            let file = path(file);
            (format!("printf Z > {file}\n"), format!("printf {letter} > {file}\n"))
        }
        // A link changes the same times of a file as a write that restores its time: a step that links its input
        // looks like one whose input was rewritten so.
        Disturbance::RewrittenWithTime(_) if step.work == Work::Command(Leaves::HardLink) => return None,
        // Another user's file keeps its new time.
        Disturbance::RewrittenWithTime(file) => {
            let file = path(file);
            (
                format!("touch -r {file} {kept}; printf Z > {file}; touch -r {kept} {file} || :\n"),
                format!("printf {letter} > {file}; touch -r {kept} {file} || :; rm -f {kept}\n"),
            )
        }
        Disturbance::Replaced(file) => {
            let file = path(file);
            (format!("mv {file} {kept}; printf Z > {file}\n"), format!("mv -f {kept} {file}\n"))
        }
        Disturbance::Added => {
            (format!("printf Z > {root_text}/folder/added\n"), format!("rm -f {root_text}/folder/added\n"))
        }
        Disturbance::Changed(file) => (format!("printf {letter} > {}\n", path(file)), String::new()),
        Disturbance::Taken => {
            let file = step.file.filter(|file| *file < FOLDER)?;
            (String::new(), format!("mv {} \"$o/taken\"\n", path(file)))
        }
        Disturbance::InPlace if reads_steps => {
            ("chmod u+w \"$@\"; for i; do printf EVIL > \"$i\"; done\n".to_owned(), String::new())
        }
        Disturbance::InPlace => return None,
        Disturbance::Session => later("setsid SCRIPT &"),
        Disturbance::Orphan => later("( (SCRIPT &) & )"),
    };
    matches!(step.work, Work::Command(_)).then(|| (format!(": > {root_text}/fired\n{before}"), after))
}
