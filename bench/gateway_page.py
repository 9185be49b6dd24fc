OUT = None


def write(r):
    pass
