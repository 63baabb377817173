//! `config.json` as found on the Hub, and everything that must be refused.
