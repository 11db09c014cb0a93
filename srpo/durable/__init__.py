"""A copy of what steps write that outlives their disks, below an S3 prefix (`storage.remote`).

    <prefix>/<folder>/<file>/<sha256>      a file with this content; never changed once it is there
    <prefix>/<folder>/manifest.json        what the folder holds (`FolderManifest`), written after all that it names

`folder` is the path below the working folder `.srpo`, so that nodes may have it in different places. A reader believes
manifests (or the `Snapshot` in another step's manifest, which says as much), never what happens to lie there: nothing
half-sent is ever seen. What has been sent is not sent again.

A step that may run on a node with an empty disk takes what it needs and leaves what it made:

    mirror = mirror_of(config.storage)
    prompts = mirror.here(prompts)             # paths of this node; files that are missing are fetched
    folder = mirror.local(output_dir)
    mirror.fetch(folder)                       # what an earlier attempt on another node has left
    ...
    mirror.push(folder)

Scores of evaluations are shared model by model (`srpo.evaluation.shared_journal`).

Without `storage.remote` all of this does nothing, and paths stay as they are. Weights from `hf://` and `s3://` are not
copied: they come from the store that nodes share (`SRPO_STORE`). Credentials are boto3's own.
"""

from srpo.durable.mirror import OWN_COPIES, Mirror, mirror_of
