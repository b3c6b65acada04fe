//! Who asks for a file: Kaggle's token from its usual places, a bearer token from the environment. What is read here
//! goes into a request and nowhere else.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use stage_api::AllowedEnv;

use super::download::{Credentials, Source};

/// The variables of the environment that hold logins, or say where they lie.
pub const VARIABLES: &[&str] = &[
    "REPRO_*",
    "HF_TOKEN",
    "HF_TOKEN_PATH",
    "HF_HOME",
    "HF_ENDPOINT",
    "XDG_CACHE_HOME",
    "HOME",
    "KAGGLE_USERNAME",
    "KAGGLE_KEY",
    "KAGGLE_CONFIG_DIR",
];

/// What a person does to get a Kaggle token.
pub const KAGGLE_HOW: &str = "make a token on https://www.kaggle.com/settings (API, Create New Token) and put the file \
                              it gives you at ~/.kaggle/kaggle.json";

#[derive(Deserialize)]
struct KaggleFile {
    username: String,
    key: String,
}

/// The login of Kaggle's own client: `KAGGLE_USERNAME` and `KAGGLE_KEY`, else `kaggle.json` in `KAGGLE_CONFIG_DIR`,
/// `~/.kaggle` or `~/.config/kaggle`. `None` when there is none.
///
/// # Errors
/// A file that holds no login.
pub fn kaggle(allowed_env: &AllowedEnv) -> Result<Option<Credentials>, String> {
    if let (Some(user), Some(key)) = (allowed_env.text("KAGGLE_USERNAME"), allowed_env.text("KAGGLE_KEY")) {
        return Ok(Some(Credentials::User(user.to_owned(), key.to_owned())));
    }
    let home = |folder: &str| allowed_env.path("HOME").map(|home| home.join(folder));
    let folders = [allowed_env.path("KAGGLE_CONFIG_DIR"), home(".kaggle"), home(".config/kaggle")];
    let files = folders.into_iter().flatten().map(|folder| folder.join("kaggle.json"));
    let Some(file) = files.into_iter().find(|file| file.is_file()) else { return Ok(None) };
    let wrong = |problem: &str| format!("{}: {problem}; {KAGGLE_HOW}", file.display());
    let text = std::fs::read(&file).map_err(|error| wrong(&format!("cannot be read: {error}")))?;
    // What the parser says of a wrong file may quote it.
    let login: KaggleFile =
        serde_json::from_slice(&text).map_err(|_| wrong("it is not a token as Kaggle makes them"))?;
    Ok(Some(Credentials::User(login.username, login.key)))
}

/// The archive of a Kaggle data set (`owner/name`).
pub fn kaggle_source(data_set: &str, login: Credentials) -> Source {
    Source { url: format!("https://www.kaggle.com/api/v1/datasets/download/{data_set}"), login }
}

/// The path that a `file://` address names.
pub fn local(url: &str) -> Option<PathBuf> {
    url.strip_prefix("file://").map(|path| Path::new(path).to_owned())
}
