"""The commands of an instance that was given a name: `mail-proxy NAME …` and `mail-proxy NAME TENANT …`."""
