// Entry: style, stored conversations, models, then the page.

import { render } from 'preact';
import { loadModels } from './api/models';
import { App } from './app';
import { openStore } from './chat/store';
import { followTheme } from './shell/preferences';
import { followAddress } from './shell/route';
import './style/base.css';
import './style/shell.css';
import './style/chat.css';
import './style/markdown.css';

const place = document.getElementById('app');
if (place) {
  followTheme();
  followAddress();
  void openStore();
  void loadModels();
  render(<App />, place);
}
