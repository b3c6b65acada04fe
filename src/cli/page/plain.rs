//! The plain page of a pipeline: the graph of its steps, what each publishes, and every published file, shown as what it
//! is or listed by name. It knows the endings of files and nothing of what they mean.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use stage_api::{Results, StepView};

use super::content::{self, Kind, address, escape};
use crate::cli::serve::published_files;

const STYLE: &str = include_str!("plain.css");

/// Renders the page. `folder` holds the reports, `base` is the way there for links.
pub fn render(results: &dyn Results, steps: &[StepView], folder: &Path, base: &str) -> String {
    let file = results.file().file_name().unwrap_or_default().to_string_lossy().into_owned();
    let title = format!("{} (profile {})", escape(&file), escape(results.profile()));
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n\
         <body>\n<main>\n<h1>{title}</h1>\n"
    );
    // Writing to a string does not fail.
    let publishing: Vec<&StepView> = steps.iter().filter(|step| step.publish.is_some()).collect();
    if publishing.is_empty() {
        page.push_str(
            "<p>No step of this pipeline has <code>publish</code>, so there are no reports to show.</p>\n",
        );
    }
    let stale: Vec<&&StepView> = publishing.iter().filter(|step| step.tree.is_none()).collect();
    if !stale.is_empty() {
        let names: Vec<String> =
            stale.iter().map(|step| format!("<code>{}</code>", escape(&step.name))).collect();
        let command = stale.iter().map(|step| escape(&step.name)).collect::<Vec<_>>().join(" ");
        let _ = writeln!(
            page,
            "<p class=\"stale\">Not up to date: {}. What is shown of them is of an earlier run, or missing: run <code>repro \
             make {command}</code>.</p>",
            names.join(", ")
        );
    }
    let files = published_files(folder);
    let mut by_folder: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    for file in files {
        by_folder.entry(file.parent().unwrap_or(Path::new("")).to_owned()).or_default().push(file);
    }
    let mut budget = content::BUDGET;
    for (at, files) in by_folder {
        let name =
            if at.as_os_str().is_empty() { "Reports".to_owned() } else { escape(&at.to_string_lossy()) };
        let by: Vec<String> = publishing
            .iter()
            .filter(|step| step.publish.as_deref().is_some_and(|to| at.starts_with(to) || to == "."))
            .map(|step| format!("<a href=\"#step-{0}\">{0}</a>", escape(&step.name)))
            .collect();
        let by = if by.is_empty() {
            String::new()
        } else {
            format!("<p class=\"soft\">From {}.</p>\n", by.join(", "))
        };
        let _ = write!(page, "<section>\n<h2>{name}</h2>\n{by}");
        forms(&files).iter().for_each(|forms| page.push_str(&shown(folder, base, forms, &mut budget)));
        page.push_str("</section>\n");
    }
    page.push_str(&steps_section(results, steps));
    page + "</main>\n</body>\n</html>\n"
}

/// Files that differ in their ending alone are forms of one thing: the first is the one to show.
fn forms(files: &[PathBuf]) -> Vec<Vec<&PathBuf>> {
    let mut found: BTreeMap<PathBuf, Vec<&PathBuf>> = BTreeMap::new();
    for file in files {
        found.entry(file.with_extension("")).or_default().push(file);
    }
    let mut all: Vec<Vec<&PathBuf>> = found.into_values().collect();
    all.iter_mut().for_each(|forms| forms.sort_by_key(|file| Kind::by_ending(file)));
    all
}

fn shown(folder: &Path, base: &str, forms: &[&PathBuf], budget: &mut u64) -> String {
    let link = |file: &Path| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let to: Vec<String> = file.iter().map(|part| address(&part.to_string_lossy())).collect();
        format!("<a href=\"{}{}\">{}</a>", escape(base), to.join("/"), escape(&name))
    };
    let Some(first) = forms.first() else { return String::new() };
    let size = folder.join(first).metadata().map_or(0, |metadata| metadata.len());
    let others: Vec<String> = forms[1..].iter().map(|file| link(file)).collect();
    let others = if others.is_empty() { String::new() } else { format!(" · {}", others.join(" ")) };
    let head = format!(
        "{} <span class=\"soft\">{}{others}</span>",
        link(first),
        bytesize::ByteSize(size).display().si()
    );
    match content::html(&folder.join(first), size, budget) {
        Some(html) => format!("<article>\n<h3>{head}</h3>\n{html}</article>\n"),
        None => format!("<p class=\"file\">{head}</p>\n"),
    }
}

fn steps_section(results: &dyn Results, steps: &[StepView]) -> String {
    let names: Vec<&str> = steps.iter().map(|step| step.name.as_str()).collect();
    // The drawing is the engine's own, built with escaped text.
    let mut text = format!(
        "<section>\n<h2>Steps</h2>\n<figure class=\"graph wide\" tabindex=\"0\">\n{}</figure>\n<div class=\"wide\" \
         tabindex=\"0\">\n<table>\n<thead><tr><th scope=\"col\">Step</th><th scope=\"col\">Stage</th><th scope=\"col\">State</th>\
         <th scope=\"col\">Published in</th><th scope=\"col\">Took</th></tr></thead>\n<tbody>\n",
        results.drawing(&names)
    );
    for step in steps {
        let took = step.run.as_ref().map_or(String::new(), |run| crate::cli::format::duration(run.seconds));
        let _ = writeln!(
            text,
            "<tr id=\"step-{name}\"><th scope=\"row\">{name}</th><td>{}</td><td>{}</td><td>{}</td><td>{took}</td></tr>",
            escape(&step.stage),
            escape(&step.state),
            escape(step.publish.as_deref().unwrap_or_default()),
            name = escape(&step.name),
        );
    }
    text + "</tbody>\n</table>\n</div>\n</section>\n"
}
