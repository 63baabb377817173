//! The Hub's settings in the environment, as `huggingface_hub` reads them.

use std::path::PathBuf;

use super::{Hub, Network};

const ENDPOINT: &str = "https://huggingface.co";

/// The Hub that these variables describe.
pub(super) fn hub(variable: impl Fn(&str) -> Option<String>) -> Hub {
    let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
    let user_home = || set("HOME").map(PathBuf::from).or_else(std::env::home_dir);
    let expand = |path: String| match path.strip_prefix("~/") {
        Some(rest) => user_home().map_or_else(|| PathBuf::from(&path), |home| home.join(rest)),
        None => PathBuf::from(path),
    };
    let home = set("HF_HOME").map(expand).unwrap_or_else(|| {
        let cache = set("XDG_CACHE_HOME").map(expand);
        let cache = cache.or_else(|| user_home().map(|home| home.join(".cache")));
        cache.unwrap_or_else(|| PathBuf::from(".cache")).join("huggingface")
    });
    let cache = set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE")).map(expand);
    let cache = cache.unwrap_or_else(|| home.join("hub"));
    let token = set("HF_TOKEN").or_else(|| set("HUGGING_FACE_HUB_TOKEN")).or_else(|| {
        let file = set("HF_TOKEN_PATH").map(expand).unwrap_or_else(|| home.join("token"));
        std::fs::read_to_string(file).ok()
    });
    let token = token.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty());
    let is_true = |name: &str| {
        set(name).is_some_and(|v| ["1", "ON", "YES", "TRUE"].contains(&&*v.to_ascii_uppercase()))
    };
    let offline = is_true("HF_HUB_OFFLINE") || is_true("TRANSFORMERS_OFFLINE");
    Hub::new(&cache, &set("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned()))
        .with_token(token)
        .with_network(if offline { Network::Offline } else { Network::Online })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Hub {
        let find = |name: &str| variables.iter().find(|(n, _)| *n == name);
        hub(|name| find(name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn the_cache_is_where_the_variables_say() {
        let home = ("HOME", "/home/u");
        let cache = |more: &[(&str, &str)]| with(&[&[home], more].concat()).cache;
        assert_eq!(cache(&[]), PathBuf::from("/home/u/.cache/huggingface/hub"));
        assert_eq!(cache(&[("XDG_CACHE_HOME", "/x")]), PathBuf::from("/x/huggingface/hub"));
        assert_eq!(cache(&[("HF_HOME", "~/hf")]), PathBuf::from("/home/u/hf/hub"));
        let both = [("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/c")];
        assert_eq!(cache(&both), PathBuf::from("/c"));
    }

    #[test]
    fn endpoint_and_offline_mode_have_defaults() {
        let hub = with(&[("HOME", "/nowhere")]);
        assert_eq!((hub.endpoint.as_str(), hub.network), (ENDPOINT, Network::Online));
        assert_eq!(hub.token, None);
        let hub = with(&[("HF_ENDPOINT", "http://mirror/"), ("HF_HUB_OFFLINE", "true")]);
        assert_eq!((hub.endpoint.as_str(), hub.network), ("http://mirror", Network::Offline));
        assert_eq!(with(&[("HF_HUB_OFFLINE", "0")]).network, Network::Online);
    }

    #[test]
    fn a_token_comes_from_the_variable_or_the_file_and_is_never_shown() {
        let dir = tempfile::tempdir().expect("temp");
        std::fs::write(dir.path().join("token"), "from-file\n").expect("write");
        let home = ("HF_HOME", dir.path().to_str().expect("UTF-8"));
        assert_eq!(with(&[home]).token.as_deref(), Some("from-file"));
        let hub = with(&[home, ("HF_TOKEN", " from-variable ")]);
        assert_eq!(hub.token.as_deref(), Some("from-variable"));
        assert!(!format!("{hub:?}").contains("from-variable"));
    }
}
