"""Interactive panels of the notebooks: ipywidgets around the kit's own figures and numbers.

Each panel is a module, imported by its name. What a panel computes is a pure function of plain values,
so that it can be tested, printed and drawn without a browser.
"""
