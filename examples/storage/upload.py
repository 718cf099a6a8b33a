"""Copy the files of a folder to a storage: python upload.py FOLDER URL."""

import sys

import fsspec

folder, url = sys.argv[1:]
storage, path = fsspec.url_to_fs(url)
storage.put(folder.rstrip("/") + "/", path.rstrip("/") + "/", recursive=True)
