"""Which versions may go, and how one goes; what it leaves on disk is `pipelines.collect`'s matter."""

from srpo.errors import ConfigError
from srpo.lease import lease
from srpo.registry.champion import Standing
from srpo.registry.lookup import all_pages, lease_place, locate
from srpo.registry.version import Version
from srpo.tracking import connect


def surplus(uri: str, keep: int) -> list[Version]:
    """The versions beyond the newest `keep` of each model that have no alias and to which no rollback would lead.

    Versions that something else than srpo registered are left alone.
    """
    client = connect(uri)
    found = []
    for model in all_pages(client.search_registered_models):
        standing = Standing(client, model.name)
        newest_first = sorted(standing.versions.values(), key=lambda entry: -int(entry.version))
        kept = {standing.previous, *(entry.version for entry in newest_first[:keep])}
        found += [entry for entry in newest_first if entry.ours and not entry.aliases and entry.version not in kept]
    return found


def delete(uri: str, reference: str) -> Version:
    """Remove a version from the registry; its run and report stay. ConfigError if it has an alias."""
    client = connect(uri)
    name, number = locate(client, reference)
    with lease(uri, lease_place(client, name), name) as held:
        version = Standing(client, name).versions.get(number)
        if version is None:
            raise ConfigError(f"version {number} of {name} has just been deleted; `status` lists what there is")
        refuse_aliases(version)
        held.confirm()
        client.delete_model_version(name, number)
    return version


def refuse_aliases(version: Version) -> None:
    """ConfigError for a version that somebody may be asking for by its alias."""
    if version.aliases:
        aliases = ", ".join(version.aliases)
        advice = "make another version champion first" if "champion" in aliases else "a newer run takes over the alias"
        raise ConfigError(f"version {version.version} of {version.name} is {aliases} and stays; {advice}")
