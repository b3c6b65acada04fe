//! Files of the Hugging Face Hub: addresses `hf://ORG/NAME@REVISION/FILE`, and the token where the Hub's own client keeps it.

use std::fs;
use std::path::PathBuf;

use stage_api::AllowedEnv;

use super::download::{Credentials, Source, is_secret_safe};

/// What an address begins with.
pub const SCHEME: &str = "hf://";
/// Where the Hub is; `HF_ENDPOINT` names a mirror, as for its own client.
const HUB: &str = "https://huggingface.co";
/// What comes before the name of a repository that is no model.
const KINDS: [&str; 2] = ["datasets/", "spaces/"];

/// A file of a repository at a revision.
#[derive(Debug, PartialEq, Eq)]
pub struct HubFile {
    /// `ORG/NAME`; of a data set `datasets/ORG/NAME`.
    repository: String,
    /// A branch, a tag or a commit.
    revision: String,
    /// Its path in the repository.
    file: String,
}

impl HubFile {
    /// The file that an address names; `None` for an address of another kind.
    ///
    /// # Errors
    /// Parts that are missing or that no repository has.
    pub fn parse(url: &str) -> Option<Result<Self, String>> {
        let rest = url.strip_prefix(SCHEME)?;
        let parsed = || {
            let (repository, rest) = rest.split_once('@')?;
            let (revision, file) = rest.split_once('/')?;
            let plain = |part: &str| {
                let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
                !part.is_empty() && part.chars().all(known) && !matches!(part, "." | "..")
            };
            let name = KINDS.iter().find_map(|kind| repository.strip_prefix(kind)).unwrap_or(repository);
            let is_named = name.split('/').count() <= 2 && name.split('/').all(plain);
            let is_good = is_named && plain(revision) && file.split('/').all(plain);
            let [repository, revision, file] = [repository, revision, file].map(ToOwned::to_owned);
            is_good.then_some(Self { repository, revision, file })
        };
        Some(parsed().ok_or_else(|| {
            format!("`{url}` is not hf://ORG/NAME@REVISION/FILE, or of a data set hf://datasets/ORG/NAME@REVISION/FILE")
        }))
    }

    /// The page on which a person accepts the terms of the repository.
    pub fn page(&self) -> String {
        format!("{HUB}/{}", self.repository)
    }

    /// Where to download it from, with the token that goes there: `own` if it is given, else the client's.
    ///
    /// # Errors
    /// A file of a token that cannot be read, a mirror that no token may be sent to.
    pub fn source(&self, own: Option<String>, allowed_env: &AllowedEnv) -> Result<Source, String> {
        let hub = allowed_env.text("HF_ENDPOINT").unwrap_or(HUB).trim_end_matches('/');
        let Self { repository, revision, file } = self;
        let url = format!("{hub}/{repository}/resolve/{revision}/{file}");
        let token = match own {
            Some(token) => Some(token),
            None => token(allowed_env)?,
        };
        if token.is_some() && !is_secret_safe(&url) {
            return Err(format!("HF_ENDPOINT: a token may not be sent to `{hub}`, which is not https://"));
        }
        Ok(Source { url, login: token.map_or(Credentials::None, Credentials::Bearer) })
    }
}

/// The token of the Hub's own client: `HF_TOKEN`, else the file `HF_TOKEN_PATH`, else `token` in `HF_HOME`, in `huggingface` in
/// `XDG_CACHE_HOME`, or in `~/.cache/huggingface`. `None` when there is none: most files need none.
fn token(allowed_env: &AllowedEnv) -> Result<Option<String>, String> {
    if let Some(token) = allowed_env.secret("HF_TOKEN")? {
        return Ok(Some(token));
    }
    let below = |variable: &str, path: &str| allowed_env.path(variable).map(|folder| folder.join(path));
    let files: [Option<PathBuf>; 4] = [
        allowed_env.path("HF_TOKEN_PATH"),
        below("HF_HOME", "token"),
        below("XDG_CACHE_HOME", "huggingface/token"),
        below("HOME", ".cache/huggingface/token"),
    ];
    let Some(file) = files.into_iter().flatten().find(|file| file.is_file()) else { return Ok(None) };
    let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let token = text.trim();
    // What is wrong with it is not shown: it may be a token all the same.
    if token.is_empty() || token.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(format!("{}: holds no token; `hf auth login` writes one", file.display()));
    }
    Ok(Some(token.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn env(variables: &[(&str, &Path)]) -> AllowedEnv {
        let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        AllowedEnv::select(&["*"], variables)
    }

    fn source(url: &str, allowed_env: &AllowedEnv) -> Source {
        HubFile::parse(url).unwrap().unwrap().source(None, allowed_env).unwrap()
    }

    #[test]
    fn an_address_names_a_file_at_a_revision() {
        let nobody = AllowedEnv::default();
        for (url, expected) in [
            (
                "hf://google-bert/bert-base-uncased@main/vocab.txt",
                "google-bert/bert-base-uncased/resolve/main/vocab.txt",
            ),
            ("hf://gpt2@v1.0/onnx/a.json", "gpt2/resolve/v1.0/onnx/a.json"),
            (
                "hf://datasets/neuralcatcher/hateful_memes@4e6b0c/train.jsonl",
                "datasets/neuralcatcher/hateful_memes/resolve/4e6b0c/train.jsonl",
            ),
        ] {
            let found = source(url, &nobody);
            assert_eq!(found.url, format!("https://huggingface.co/{expected}"));
            assert!(matches!(found.login, Credentials::None));
        }
        assert!(HubFile::parse("https://huggingface.co/a/b").is_none());
        for wrong in [
            "hf://a/b/vocab.txt",
            "hf://a/b@main",
            "hf://a/b@/x",
            "hf://a/b/c@main/x",
            "hf://a/..@main/x",
            "hf://a/b@main/../x",
            "hf://a/b@main/x?y",
            "hf://@main/x",
        ] {
            let problem = HubFile::parse(wrong).unwrap().unwrap_err();
            assert!(problem.contains("is not hf://ORG/NAME@REVISION/FILE"), "{wrong}: {problem}");
        }
    }

    #[test]
    fn the_token_is_where_the_hub_s_client_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path();
        let token = |allowed_env: &AllowedEnv| match source("hf://a/b@main/x", allowed_env).login {
            Credentials::Bearer(token) => Some(token),
            _ => None,
        };
        assert_eq!(token(&env(&[("HOME", home)])), None);
        fs::create_dir_all(home.join(".cache/huggingface")).unwrap();
        fs::write(home.join(".cache/huggingface/token"), "hf_home\n").unwrap();
        assert_eq!(token(&env(&[("HOME", home)])).as_deref(), Some("hf_home"));
        fs::write(home.join("token"), "hf_other").unwrap();
        assert_eq!(token(&env(&[("HOME", home), ("HF_HOME", home)])).as_deref(), Some("hf_other"));
        let variable = env(&[("HOME", home), ("HF_TOKEN", Path::new("hf_variable"))]);
        assert_eq!(token(&variable).as_deref(), Some("hf_variable"));
        fs::write(home.join("token"), "hf_a hf_b").unwrap();
        let file = HubFile::parse("hf://a/b@main/x").unwrap().unwrap();
        let problem = file.source(None, &env(&[("HF_TOKEN_PATH", &home.join("token"))])).err().unwrap();
        assert!(problem.contains("holds no token") && !problem.contains("hf_a"), "{problem}");
        // A token goes to a mirror only by https.
        let mirror = |address: &str| {
            let address = Path::new(address);
            file.source(None, &env(&[("HF_TOKEN", Path::new("hf_variable")), ("HF_ENDPOINT", address)]))
        };
        assert!(mirror("http://mirror.example").is_err());
        assert_eq!(
            mirror("https://mirror.example/").ok().unwrap().url,
            "https://mirror.example/a/b/resolve/main/x"
        );
    }
}
