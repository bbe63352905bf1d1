"""The built-in trainers: recipes over one shared loop; installed as ``saebench.trainers``.

``run`` reads what is asked for, ``loop`` trains one or many SAEs (``trainee``) on one stream of acts (``acts/``), and
``recipes/`` says how. ``sparse`` and ``triton_kernels`` are the arithmetic, ``ranks`` the processes that share the work.
"""
