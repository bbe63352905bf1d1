"""How bytes on disk become settings, headers and tensors. Nothing here knows what an SAE is, and nothing foreign is run.

``files`` reads JSON and YAML and takes single values out of what was read; ``containers`` opens safetensors, torch files and
numpy archives. Below them: ``archives`` says where the members of a zip lie, ``torch_files`` what ``torch.save`` wrote,
``unpickle`` interprets its pickles (``pickle_parts``: the few words it knows), ``pickle_imports`` looks at what a pickle would
import, ``inert`` stands in for that, and ``mapped`` holds tensors that are maps of a file.
"""
