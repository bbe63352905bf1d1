"""The study ``truth``: does an SAE find the variables of the made-up world that wrote the text?"""
